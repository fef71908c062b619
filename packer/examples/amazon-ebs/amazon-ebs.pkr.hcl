# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

packer {
  required_plugins {
    amazon = {
      source  = "github.com/hashicorp/amazon"
      version = "~> 1.2"
    }
  }
}

variable "region" {
  type    = string
  default = "eu-central-1"
}

source "amazon-ebs" "web" {
  region        = var.region
  ami_name      = "web-{{timestamp}}"
  instance_type = "t3.small"
  ssh_username  = "admin"

  # The key that Packer made for the build is no use to anybody afterwards.
  ssh_clear_authorized_keys = true

  # The image is encrypted, and metadata of the build needs a session token.
  encrypt_boot = true
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  # Debian's own account.
  source_ami_filter {
    owners      = ["136693071363"]
    most_recent = true
    filters = {
      name                = "debian-12-amd64-*"
      root-device-type    = "ebs"
      virtualization-type = "hvm"
    }
  }
}
