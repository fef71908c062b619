# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

packer {
  required_plugins {
    googlecompute = {
      source  = "github.com/hashicorp/googlecompute"
      version = "~> 1.1"
    }
  }
}

variable "project" {
  type        = string
  description = "ID of the Google Cloud project that the image belongs to."
}

variable "zone" {
  type    = string
  default = "europe-west3-a"
}

source "googlecompute" "web" {
  project_id              = var.project
  zone                    = var.zone
  source_image_family     = "debian-12"
  source_image_project_id = ["debian-cloud"]
  image_name              = "web-{{timestamp}}"
  image_family            = "web"
  machine_type            = "e2-small"
  ssh_username            = "packer"
  use_os_login            = false

  # The machine that becomes the image may ask nothing of the project.
  disable_default_service_account = true

  enable_secure_boot          = true
  enable_vtpm                 = true
  enable_integrity_monitoring = true
}
