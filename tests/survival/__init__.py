"""Does it survive? Real processes, real faults, and histories of what clients and workers saw."""
