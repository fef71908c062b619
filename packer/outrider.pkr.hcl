# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

# Puts Outrider on any image: keep this file and the folder outrider beside your
# source blocks, and name those in outrider_sources. README.md explains the rest.

packer {
  required_version = ">= 1.9.0"
}

variable "outrider_sources" {
  type        = list(string)
  description = "The source blocks of yours that get Outrider, such as [\"source.amazon-ebs.web\"]."

  validation {
    condition = length(var.outrider_sources) > 0 && length([
      for s in var.outrider_sources : s if !can(regex("^source\\.[a-zA-Z][a-zA-Z0-9_-]*\\.[a-zA-Z][a-zA-Z0-9_-]*$", s))
    ]) == 0
    error_message = "The variable outrider_sources must name at least one source block, each as source.TYPE.NAME."
  }
}

variable "outrider_package" {
  type        = string
  description = "The package: a .deb or .rpm file on the machine that runs Packer, or its https:// address."

  validation {
    condition     = can(regex("^[^\\s]+\\.(deb|rpm)$", var.outrider_package)) && (!can(regex("://", var.outrider_package)) || can(regex("^https://[^/@?#]+/[^@?#]*$", var.outrider_package)))
    error_message = "The variable outrider_package must end in .deb or .rpm, and be a path without spaces or an https:// address without a user, a password or a query. What logs in to a server goes into the environment, see README.md."
  }
}

variable "outrider_package_sha256" {
  type        = string
  description = "SHA-256 of the package, in hex. SHA256SUMS beside the packages has it."

  validation {
    condition     = can(regex("^[0-9a-f]{64}$", var.outrider_package_sha256))
    error_message = "The variable outrider_package_sha256 must be 64 lower-case hexadecimal digits: \"sha256sum FILE\" prints them."
  }
}

# Not marked sensitive, on purpose: nothing secret may be in them, and a reader
# of the build's output should see what the image got.
variable "outrider_config" {
  type        = map(string)
  description = "Files for /etc/outrider.d: the name, ending in .hcl, and the text."
  default     = {}

  validation {
    condition     = length([for name in keys(var.outrider_config) : name if !can(regex("^[a-z0-9][a-z0-9_.-]*\\.hcl$", name))]) == 0
    error_message = "Each name in outrider_config must be a plain file name of lower-case letters, digits, dots, dashes and underscores that ends in .hcl."
  }
  validation {
    condition     = !can(regex("(?i)(token|secret|secret_?id|password|passwd|authorization|cookie|api[-_]?key)[\"']?[ \\t]*[=:]", join("\n", values(var.outrider_config))))
    error_message = "A text in outrider_config holds a secret, such as token = or secret_id =. Whoever reads the image would have it: name a file with token_file = or secret_id_file =, and put that file on the machine when it boots."
  }
  validation {
    condition     = !can(regex("-----BEGIN|\\b(hv[sbr]|s|b|r)\\.[A-Za-z0-9_-]{20,}|://[^/\\s\"@]*@", join("\n", values(var.outrider_config))))
    error_message = "A text in outrider_config holds a PEM block, a Vault token or a password in a URL. Whoever reads the image would have it: name a file instead, and put that file on the machine when it boots."
  }
}

variable "outrider_config_dir" {
  type        = string
  description = "A folder whose *.hcl files go to /etc/outrider.d; a file of the same name in outrider_config wins."
  default     = ""

  validation {
    condition     = var.outrider_config_dir == "" || length(fileset(abspath(var.outrider_config_dir), "*.hcl")) > 0
    error_message = "The folder outrider_config_dir must exist and have files that end in .hcl. A relative path begins where Packer is started."
  }
  validation {
    condition     = var.outrider_config_dir == "" || length([for name in fileset(abspath(var.outrider_config_dir), "*.hcl") : name if !can(regex("^[a-z0-9][a-z0-9_.-]*\\.hcl$", name))]) == 0
    error_message = "Each file name in outrider_config_dir that ends in .hcl must be of lower-case letters, digits, dots, dashes and underscores."
  }
  validation {
    condition = var.outrider_config_dir == "" || !can(regex(
      "(?i)(token|secret|secret_?id|password|passwd|authorization|cookie|api[-_]?key)[\"']?[ \\t]*[=:]",
      join("\n", [for name in fileset(abspath(var.outrider_config_dir), "*.hcl") : file("${abspath(var.outrider_config_dir)}/${name}")])
    ))
    error_message = "A file in outrider_config_dir holds a secret, such as token = or secret_id =. Whoever reads the image would have it: name a file with token_file = or secret_id_file =, and put that file on the machine when it boots."
  }
  validation {
    condition = var.outrider_config_dir == "" || !can(regex(
      "-----BEGIN|\\b(hv[sbr]|s|b|r)\\.[A-Za-z0-9_-]{20,}|://[^/\\s\"@]*@",
      join("\n", [for name in fileset(abspath(var.outrider_config_dir), "*.hcl") : file("${abspath(var.outrider_config_dir)}/${name}")])
    ))
    error_message = "A file in outrider_config_dir holds a PEM block, a Vault token or a password in a URL. Whoever reads the image would have it: name a file instead, and put that file on the machine when it boots."
  }
}

variable "outrider_sample_environment" {
  type        = map(string)
  description = "Stand-ins for what env() finds on the machine, for the check of the configuration in the image only. Not kept."
  default     = {}

  validation {
    condition     = length([for name in keys(var.outrider_sample_environment) : name if !can(regex("^[A-Za-z_][A-Za-z0-9_]*$", name))]) == 0
    error_message = "Each name in outrider_sample_environment must be the name of an environment variable."
  }
}

variable "outrider_enable" {
  type        = bool
  description = "Whether outrider.service starts at boot."
  default     = true
}

variable "outrider_scripts" {
  type        = list(string)
  description = "Shell scripts of yours, run as root after the package and the configuration are in place and before the image is cleaned and checked."
  default     = []
}

variable "outrider_reset_machine" {
  type        = bool
  description = "Whether the machine ID, systemd's random seed and its credential secret are removed, so that each clone makes its own."
  default     = true
}

variable "outrider_cache" {
  type        = string
  description = "A folder on the machine that runs Packer for the package, by its SHA-256."
  default     = "packer_cache"

  validation {
    condition     = can(regex("^[^\\s]+$", var.outrider_cache))
    error_message = "The variable outrider_cache must be a path without spaces."
  }
}

locals {
  outrider_work    = "/tmp/outrider-image-${uuidv4()}"
  outrider_kind    = regex_replace(var.outrider_package, "^.*\\.", "")
  outrider_fetched = "${var.outrider_cache}/outrider-${var.outrider_package_sha256}.${local.outrider_kind}"
  outrider_files = merge(
    var.outrider_config_dir == "" ? {} : {
      for name in fileset(abspath(var.outrider_config_dir), "*.hcl") : name => file("${abspath(var.outrider_config_dir)}/${name}")
    },
    var.outrider_config,
  )
  # The user of the build may be root, or another one who may become it.
  outrider_as_root = "chmod 0700 '{{ .Path }}'; if [ \"$(id -u)\" -eq 0 ]; then env {{ .Vars }} sh '{{ .Path }}'; else sudo -n env {{ .Vars }} sh '{{ .Path }}'; fi"
}

build {
  name    = "outrider"
  sources = var.outrider_sources

  # The package is fetched and checked where Packer runs, so that what opens the
  # server it is on never reaches the machine that becomes the image.
  provisioner "shell-local" {
    script          = "${path.root}/outrider/fetch.sh"
    execute_command = ["sh", "-c", "{{ .Vars }} sh '{{ .Script }}'"]
    environment_vars = [
      "OUTRIDER_PACKAGE=${var.outrider_package}",
      "OUTRIDER_SHA256=${var.outrider_package_sha256}",
      "OUTRIDER_FETCHED=${local.outrider_fetched}",
    ]
  }

  # Fails when the folder is there: somebody else would own what is in it.
  provisioner "shell" {
    inline = ["mkdir -m 0700 '${local.outrider_work}'"]
  }

  provisioner "file" {
    source      = local.outrider_fetched
    destination = "${local.outrider_work}/outrider.${local.outrider_kind}"
    generated   = true
  }

  # Each line is a name and the text in base64.
  provisioner "file" {
    content     = join("", concat(["#\n"], [for name, text in local.outrider_files : "${name} ${base64encode(text)}\n"]))
    destination = "${local.outrider_work}/config"
  }

  provisioner "file" {
    content     = join("", concat(["#\n"], [for name, value in var.outrider_sample_environment : "${name} ${base64encode(value)}\n"]))
    destination = "${local.outrider_work}/environment"
  }

  provisioner "shell" {
    execute_command = local.outrider_as_root
    environment_vars = [
      "OUTRIDER_WORK=${local.outrider_work}",
      "OUTRIDER_KIND=${local.outrider_kind}",
      "OUTRIDER_SHA256=${var.outrider_package_sha256}",
      "OUTRIDER_ENABLE=${var.outrider_enable}",
      "OUTRIDER_RESET_MACHINE=${var.outrider_reset_machine}",
    ]
    scripts = concat(
      ["${path.root}/outrider/install.sh"],
      var.outrider_scripts,
      ["${path.root}/outrider/clean.sh", "${path.root}/outrider/check.sh"],
    )
  }

  # The machine of a failed build is usually thrown away; this one may not be.
  error-cleanup-provisioner "shell" {
    inline = ["rm -rf '${local.outrider_work}'"]
  }
}
