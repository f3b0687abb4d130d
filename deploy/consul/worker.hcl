# A worker of the service `chat`, and `gatecrew run --service chat`: it registers itself, and nothing more.
service "chat" {
  policy = "write"
}
