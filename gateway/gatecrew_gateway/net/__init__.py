"""The rooms that own a wire: client connections, links to workers, the Gateway service and its peers."""
