# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

service {
  name = metadata.instance_idd
  id   = metadata
  tags = [metadata.tags, metadata.tags.a.b, metadata[0], host]
  meta = {
    a = hostname.short
  }

  connect {
    sidecar_service {}
  }
}
