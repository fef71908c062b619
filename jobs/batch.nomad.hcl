# A batch job that calls a service of the mesh (api, from web-api.nomad.hcl) once
# and is done. Nomad ends the sidecar when the main task has ended.
#
#   nomad job run web-api.nomad.hcl
#   consul intention create -allow nightly api
#   nomad job run batch.nomad.hcl
#
# Nomad starts the main task as soon as the sidecar runs; "outrider wait" keeps
# it back until the sidecar can serve.

job "batch" {
  type = "batch"

  group "nightly" {
    network {
      mode = "bridge"
    }

    service {
      name = "nightly"

      connect {
        sidecar_service {
          # Nobody calls a batch job.
          disable_default_tcp_check = true

          proxy {
            upstreams {
              destination_name = "api"
              local_bind_port  = 9191
            }
          }
        }

        sidecar_task {
          driver = "raw_exec"

          config {
            command = "outrider"
            args    = ["sidecar"]
          }

          resources {
            cpu    = 50
            memory = 32
          }
        }
      }
    }

    task "wait" {
      driver = "raw_exec"

      lifecycle {
        hook = "prestart"
      }

      config {
        command = "outrider"
        args    = ["wait", "-timeout", "1m"]
      }

      resources {
        cpu    = 20
        memory = 32
      }
    }

    task "report" {
      driver = "raw_exec"

      config {
        command = "sh"
        args    = ["-c", "curl -sS --fail http://$NOMAD_UPSTREAM_ADDR_api/ > $NOMAD_ALLOC_DIR/data/report && cat $NOMAD_ALLOC_DIR/data/report"]
      }
    }
  }
}
