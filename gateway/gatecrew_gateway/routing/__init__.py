"""Who gets a packet, and what next. Pure: no sockets, no event loop; time is an argument."""
