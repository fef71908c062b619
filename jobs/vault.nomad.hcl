# Leaves signed by Vault. The sidecar is a task of its own, with kind, because
# Nomad's sidecar_task has no vault block: Nomad logs in with the identity of the
# task, keeps the token fresh, and the key of the leaf never leaves the sidecar.
#
#   nomad job run -var vault=https://vault.example.com:8200 vault.nomad.hcl
#   consul intention create -allow billing ledger
#
# The roles mesh-ledger and mesh-billing exist twice: in Vault's JWT auth method,
# for this job, and in the PKI mount, where each allows the SPIFFE ID of its
# service and nothing else. See docs/nomad.md.

variable "vault" {
  type        = string
  description = "Vault's address, reachable from the network of the group."
}

variable "pki_mount" {
  type    = string
  default = "connect-intermediate"
}

job "vault" {
  group "ledger" {
    network {
      mode = "bridge"
    }

    service {
      name = "ledger"
      port = "9090"

      connect {
        sidecar_service {}
      }
    }

    task "mesh" {
      kind   = "connect-proxy:ledger"
      driver = "raw_exec"

      # The sidecar comes first and goes last.
      lifecycle {
        hook    = "prestart"
        sidecar = true
      }

      config {
        command = "outrider"
        args    = ["sidecar"]
      }

      vault {
        role = "mesh-ledger"
        # The sidecar reads the new token from its file.
        change_mode = "noop"
      }

      env {
        VAULT_ADDR               = var.vault
        OUTRIDER_VAULT_PKI_MOUNT = var.pki_mount
        OUTRIDER_VAULT_PKI_ROLE  = "mesh-ledger"
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }

    task "app" {
      driver = "raw_exec"

      config {
        command = "python3"
        args    = ["-m", "http.server", "9090", "--bind", "127.0.0.1", "--directory", "local"]
      }

      template {
        data        = "hello from ledger\n"
        destination = "local/index.html"
      }
    }
  }

  group "billing" {
    network {
      mode = "bridge"
    }

    service {
      name = "billing"
      port = "8080"

      connect {
        sidecar_service {
          proxy {
            upstreams {
              destination_name = "ledger"
              local_bind_port  = 9191
            }
          }
        }
      }
    }

    task "mesh" {
      kind   = "connect-proxy:billing"
      driver = "raw_exec"

      # The sidecar comes first and goes last.
      lifecycle {
        hook    = "prestart"
        sidecar = true
      }

      config {
        command = "outrider"
        args    = ["sidecar"]
      }

      vault {
        role = "mesh-billing"
        # The sidecar reads the new token from its file.
        change_mode = "noop"
      }

      env {
        VAULT_ADDR               = var.vault
        OUTRIDER_VAULT_PKI_MOUNT = var.pki_mount
        OUTRIDER_VAULT_PKI_ROLE  = "mesh-billing"
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }

    task "app" {
      driver = "raw_exec"

      config {
        command = "sh"
        args    = ["-c", "while :; do curl -sS http://$NOMAD_UPSTREAM_ADDR_ledger/; sleep 1; done"]
      }
    }
  }
}
