# Gatecrew on Nomad with Consul: two gateways on the clients' port of their nodes, three chat workers, and a worker of
# another language that `gatecrew run` supervises. Every node has a Consul agent, as is usual with Nomad.
#
#     nomad job run -var image=registry.example/gatecrew:0.1.0 deploy/nomad/gatecrew.nomad.hcl
#
# There are no service blocks: gateways and workers register themselves, with what gateways need to know, and with checks
# of their own. Nomad starts, places and replaces them.

variable "image" {
  type        = string
  description = "The image that the Dockerfile of the repository makes."
  default     = "gatecrew:local"
}

variable "datacenters" {
  type    = list(string)
  default = ["*"]
}

job "gatecrew" {
  datacenters = var.datacenters
  type        = "service"

  update {
    max_parallel      = 1
    health_check      = "task_states"
    min_healthy_time  = "10s"
    healthy_deadline  = "2m"
    auto_revert       = true
  }

  group "gateway" {
    count = 2

    constraint {
      distinct_hosts = true
    }

    network {
      mode = "host"
      port "clients" {
        static = 7000
      }
      port "service" {}
    }

    task "gateway" {
      driver       = "docker"
      kill_signal  = "SIGTERM"
      kill_timeout = "30s" # longer than a drain may take

      config {
        image        = var.image
        network_mode = "host"
        args         = ["gateway", "--listen", "0.0.0.0:7000", "--advertise", "${NOMAD_IP_service}"]
        ports        = ["clients", "service"]
      }

      env {
        CONSUL_HTTP_ADDR                = "127.0.0.1:8500"
        GATECREW_GATEWAY__NAME          = "gateway-${NOMAD_ALLOC_INDEX}"
        GATECREW_GATEWAY__SERVICE_PORT  = "${NOMAD_PORT_service}"
      }

      resources {
        cpu    = 2000
        memory = 512
      }
    }
  }

  group "chat" {
    count = 3

    network {
      mode = "host"
      port "service" {}
    }

    task "worker" {
      driver       = "docker"
      kill_signal  = "SIGTERM"
      kill_timeout = "30s"

      config {
        image        = var.image
        network_mode = "host"
        args = [
          "worker", "examples.chat.worker:worker",
          "--listen", "0.0.0.0:${NOMAD_PORT_service}", "--advertise", "${NOMAD_IP_service}",
        ]
        ports = ["service"]
      }

      env {
        CONSUL_HTTP_ADDR = "127.0.0.1:8500"
      }

      resources {
        cpu    = 500
        memory = 256
      }
    }
  }

  # A program of any language, straight on nodes that have Gatecrew installed.
  group "tour" {
    count = 1

    network {
      mode = "host"
      port "service" {}
    }

    task "run" {
      driver       = "exec"
      kill_signal  = "SIGTERM"
      kill_timeout = "30s"

      config {
        command = "gatecrew"
        args = [
          "run", "--service", "tour",
          "--listen", "0.0.0.0:${NOMAD_PORT_service}", "--advertise", "${NOMAD_IP_service}",
          "--", "local/tour",
        ]
      }

      artifact {
        source = "https://artifacts.example/tour"
        mode   = "file"
        destination = "local/tour"
      }

      env {
        CONSUL_HTTP_ADDR = "127.0.0.1:8500"
      }

      resources {
        cpu    = 500
        memory = 256
      }
    }
  }
}
