"""dpnp: the SYCL devices of Intel and others."""

__all__: list[str] = []
