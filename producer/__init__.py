"""Reads files of prompts, checks them, submits runs and follows them. No torch."""
