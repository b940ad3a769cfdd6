"""One function per kind of job: a batch of jobs and a model in, pixels out."""
