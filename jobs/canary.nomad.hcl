# A new version that gets a tenth of the requests until somebody promotes it.
#
#   consul config write - <<EOF
#   Kind     = "service-defaults"
#   Name     = "greeter"
#   Protocol = "http"
#   EOF
#   consul config write - <<EOF
#   Kind          = "service-resolver"
#   Name          = "greeter"
#   DefaultSubset = "stable"
#   Subsets = {
#     stable = { Filter = "Service.Meta.version == stable" }
#     canary = { Filter = "Service.Meta.version == canary" }
#   }
#   Failover = { canary = { ServiceSubset = "stable" } }
#   EOF
#   consul config write - <<EOF
#   Kind   = "service-splitter"
#   Name   = "greeter"
#   Splits = [{ Weight = 90, ServiceSubset = "stable" }, { Weight = 10, ServiceSubset = "canary" }]
#   EOF
#   nomad job run canary.nomad.hcl
#   nomad job run -var greeting=bonjour canary.nomad.hcl   # one canary, a tenth of the requests
#   nomad job promote canary
#
# While a canary runs, Nomad registers it with canary_meta; promoted, its
# registration changes to meta, and the splitter needs no change: without a canary
# its share fails over to the others.

variable "greeting" {
  type    = string
  default = "hello"
}

job "canary" {
  update {
    canary           = 1
    max_parallel     = 1
    min_healthy_time = "5s"
  }

  group "greeter" {
    count = 2

    # Between deregistration and the end of the application, so that callers
    # elsewhere have heard of it.
    shutdown_delay = "3s"

    network {
      mode = "bridge"
    }

    service {
      name = "greeter"
      port = "9090"

      meta {
        version = "stable"
      }

      canary_meta {
        version = "canary"
      }

      # Nothing else looks at the application itself. The sidecar serves this path,
      # and this path only, to Consul's agent.
      check {
        type     = "http"
        path     = "/"
        interval = "2s"
        timeout  = "2s"
        expose   = true

        # A probe that a busy machine answers late takes no instance out of service;
        # callers leave out by themselves what fails.
        failures_before_critical = 2
      }

      connect {
        sidecar_service {}

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

    task "app" {
      driver = "raw_exec"

      config {
        command = "python3"
        args    = ["-m", "http.server", "9090", "--bind", "127.0.0.1", "--directory", "local"]
      }

      template {
        data        = "${var.greeting}\n"
        destination = "local/index.html"
      }
    }
  }
}
