# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

# No cloud, no plugin: a machine that is there and is reached with SSH. It could
# be a chroot on a disk image, a container, or bare metal that is copied later.

variable "machine_address" {
  type    = string
  default = "127.0.0.1"
}

variable "machine_port" {
  type    = number
  default = 22
}

variable "machine_user" {
  type        = string
  description = "root, or a user whom sudo lets become root without a password."
}

variable "machine_password" {
  type      = string
  default   = ""
  sensitive = true
}

variable "machine_private_key_file" {
  type        = string
  description = "The file with the private SSH key, if there is no password."
  default     = ""
}

source "null" "machine" {
  communicator         = "ssh"
  ssh_host             = var.machine_address
  ssh_port             = var.machine_port
  ssh_username         = var.machine_user
  ssh_password         = var.machine_password
  ssh_private_key_file = var.machine_private_key_file
  ssh_timeout          = "1m"
}
