# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

telemetry {
  prometheus_address = "127.0.0.1:9102"
  otlp_endpoint      = "https://collector.example.com:4317"
  otlp_protocol      = "grpc"
  otlp_headers_file  = "/etc/outrider.d/collector.headers"
  otlp_ca_file       = "/etc/ssl/collector.pem"
  sample_ratio       = 0.05
}
service {
  name = "web"
  port = 8080

  connect {
    sidecar_service {}
  }
}
