# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

telemetry {
  otlp_endpoint = "http://collector.example.com:4317/v1/traces"
  otlp_protocol = "grpc"
}
service {
  name = "web"
  port = 8080

  connect {
    sidecar_service {}
  }
}
