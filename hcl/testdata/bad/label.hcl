# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

service "web" {
  port = 8080
}
consul "x" {}
