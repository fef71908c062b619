# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

outrider_sources    = ["source.qemu.web"]
outrider_config_dir = "config"
