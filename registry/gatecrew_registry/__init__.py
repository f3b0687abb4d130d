"""Who is there: register, watch, last known good."""
