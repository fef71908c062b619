# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

service {
  name    = "web"
  id      = "web-${metadata.instance_id}"
  port    = 8080
  address = "{{ GetPrivateIP }}"
  tags    = [metadata.zone]

  meta = {
    node        = hostname
    environment = metadata.tags["Environment"]
  }

  check {
    http     = "http://{{ GetPrivateIP }}:8080/health"
    interval = "5s"
  }

  connect {
    sidecar_service {
      port = 21000
    }
  }
}
