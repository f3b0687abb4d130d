"""The process that holds the clients' connections."""
