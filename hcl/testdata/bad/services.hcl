# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

services {
  name = "web"
}
