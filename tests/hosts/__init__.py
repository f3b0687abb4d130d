"""Several hosts, made of network namespaces: who cannot reach whom, in which direction, what clients notice of it."""
