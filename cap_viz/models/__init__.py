"""Language models: catalogue, files, loading, devices and cost; names of the former module `models` are forwarded."""

from cap_viz._moved import names_of

__getattr__ = names_of("cap_viz.models", "models.loading", "models.catalogue")
