# A Consul agent that nobody talks to without a token, and only over HTTPS. Add what your cluster needs beside it
# (server, retry_join, encrypt, ...), and your own certificates: tests use these paths, too, with other files.

ports {
  http  = -1
  https = 8501
}

tls {
  defaults {
    ca_file   = "/etc/consul.d/tls/ca.pem"
    cert_file = "/etc/consul.d/tls/consul.pem"
    key_file  = "/etc/consul.d/tls/consul.key"
  }
  https {
    verify_incoming = false # clients show a token, not a certificate
  }
}

acl {
  enabled                  = true
  default_policy           = "deny"
  enable_token_persistence = true
}

# What a gateway says of itself (sessions, links) is shown at once, and not after Consul's default of five minutes.
check_update_interval = "0s"
