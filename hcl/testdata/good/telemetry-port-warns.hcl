# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

telemetry {
  otlp_endpoint = "http://127.0.0.1:4317"
}
service {
  name = "web"
  port = 8080

  connect {
    sidecar_service {}
  }
}
