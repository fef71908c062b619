# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

outrider_sources    = ["source.null.machine"]
outrider_config_dir = "config"

# Only the machine knows its address; the check in the image needs one.
outrider_sample_environment = {
  WEB_ADDRESS = "192.0.2.1"
}
