"""What a service may be called."""

import re

SERVICE_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")  # RFC 1123, as Consul's DNS wants it
SERVICE_RULE = "give lower-case letters, digits and dashes, such as market-data"
