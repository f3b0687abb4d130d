# A gateway: registers itself, and follows the workers of all services. Name the services one by one, if you like:
# what it may not read, it does not serve.
service "gatecrew-gateway" {
  policy = "write"
}
service_prefix "" {
  policy = "read"
}
node_prefix "" {
  policy = "read"
}
