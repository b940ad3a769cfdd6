"""The words that producer and workers both speak: jobs, settings, queue, storage, ledger. No torch."""
