# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

packer {
  required_plugins {
    qemu = {
      source  = "github.com/hashicorp/qemu"
      version = "~> 1.0"
    }
  }
}

variable "cloud_image" {
  type        = string
  description = "A cloud image of Debian in qcow2 format: a file, or its https:// address."
}

variable "cloud_image_checksum" {
  type        = string
  description = "Its checksum, as sha512:HEX."

  validation {
    condition     = can(regex("^sha(256|512):[0-9a-f]{64,128}$", var.cloud_image_checksum))
    error_message = "The variable cloud_image_checksum must be sha256: or sha512: and the checksum in hex."
  }
}

variable "build_public_key" {
  type        = string
  description = "The public SSH key of the build; it opens the machine until the image is made."
}

variable "build_private_key_file" {
  type        = string
  description = "The file with its private key."
}

source "qemu" "web" {
  iso_url          = var.cloud_image
  iso_checksum     = var.cloud_image_checksum
  disk_image       = true
  format           = "qcow2"
  disk_size        = "8G"
  memory           = 1024
  headless         = true
  output_directory = "output"
  vm_name          = "web.qcow2"

  # cloud-init reads this disk, which is no part of the image.
  cd_label = "cidata"
  cd_content = {
    meta-data = ""
    user-data = <<-EOT
      #cloud-config
      users:
        - name: packer
          sudo: "ALL=(ALL) NOPASSWD:ALL"
          shell: /bin/sh
          ssh_authorized_keys: ["${var.build_public_key}"]
    EOT
  }

  ssh_username         = "packer"
  ssh_private_key_file = var.build_private_key_file
  ssh_timeout          = "10m"
  # The user of the build goes, and cloud-init begins anew with each clone.
  shutdown_command = "sudo -n sh -c 'cloud-init clean --logs; userdel --force --remove packer; rm -f /etc/sudoers.d/90-cloud-init-users; systemctl poweroff'"
}
