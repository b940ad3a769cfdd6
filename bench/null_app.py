"""The workers' app with the null model in place of Stable Diffusion."""

from workers.app import app

app.conf.include = [*app.conf.include, "bench.null_model"]
