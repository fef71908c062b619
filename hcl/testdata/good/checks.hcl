# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

service {
  name = "web"
  port = 8080
  address = "10.0.0.7"

  check {
    type     = "tcp"
    interval = "10s"
  }
  check {
    type     = "http"
    protocol = "https"
    path     = "/"
    port     = 8443
    interval = "10s"
    timeout  = "30s"
    tls_skip_verify = true
  }
  check {
    type     = "script"
    command  = "/bin/probe"
    args     = ["-q"]
    interval = "1m"
  }
  check {
    grpc         = "127.0.0.1:9000/web.Health"
    grpc_use_tls = true
    interval     = "10s"
  }
  check {
    udp      = "127.0.0.1:9001"
    interval = "10s"
    status   = "passing"
  }
  check {
    h2ping   = "127.0.0.1:9002"
    interval = "10s"
  }
  check {
    docker_container_id = "f972c95ebf0e"
    shell               = "/bin/bash"
    args                = ["/check.sh"]
    interval            = "10s"
  }
  checks = []

  connect {
    sidecar_service {}
  }
}
