# One agent on every client, for services that do not run under Nomad: the
# database of the host, say, which joins the mesh without being moved.
#
#   nomad job run agents.nomad.hcl
#   consul intention create -allow web database
#
# The agent runs on the network of the host and registers what its configuration
# names. Jobs that have sidecars of their own do not need it.

variable "consul" {
  type    = string
  default = "127.0.0.1:8500"
}

variable "port" {
  type        = number
  default     = 5432
  description = "Where the database of the host listens."
}

job "agents" {
  type = "system"

  group "agent" {
    network {
      # Where the sidecar is reached by the mesh: Nomad finds a free port.
      port "mesh" {}
    }

    task "outrider" {
      driver       = "raw_exec"
      kill_timeout = "30s"

      config {
        command = "outrider"
        args    = ["agent", "-config", "local/outrider.hcl"]
      }

      template {
        destination = "local/outrider.hcl"
        change_mode = "signal"
        # SIGHUP reloads; a configuration with an error in it changes nothing.
        change_signal = "SIGHUP"

        data = <<EOF
consul {
  address    = "${var.consul}"
  token_file = "{{ env "NOMAD_SECRETS_DIR" }}/consul_token"
}

admin {
  address = "unix://{{ env "NOMAD_SECRETS_DIR" }}/outrider.sock"
}

drain {
  propagation = "2s"
  timeout     = "20s"
}

service {
  name = "database"
  port = ${var.port}

  connect {
    sidecar_service {
      address = "{{ env "NOMAD_IP_mesh" }}"
      port    = {{ env "NOMAD_PORT_mesh" }}
    }
  }
}
EOF
      }

      # Nomad derives the token from the identity of the task.
      consul {}

      resources {
        cpu    = 100
        memory = 64
      }
    }
  }
}
