"""The null model's app, in which a worker comes to grief at a chosen point."""

from null_app import app

app.conf.include = [*app.conf.include, "tests.faults.dying"]
