# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

service {
  name = "web"
  port = [1]
  tags = "a"
  enable_tag_override = "perhaps"
  meta = ["a"]
  token = ["s3cret"]

  connect {
    sidecar_service {}
  }
}
