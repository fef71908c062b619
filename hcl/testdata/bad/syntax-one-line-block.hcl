# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

log { level = "info"  format = "text" }
