# Which Python the functions run, and who compiles modules for it; read by the makefiles of the layer and the functions.
# Bytecode depends on Python's minor version and not on the processor, and Lambda's /opt and /var/task are read-only:
# without it, each new environment compiles every module that it imports.
#
#   SLUICE_BUILD     whose wheels: arm64 (the template's default), x86_64, or host (this machine's, for the local stack)
#   SLUICE_RUNTIME   Lambda's name of the functions' Python, as in the template's parameter Runtime
#   PYTHON           the interpreter that builds: the project's virtual environment if there is one, else python3

SLUICE_BUILD ?= arm64
SLUICE_RUNTIME ?= python3.13
root := $(patsubst %/,%,$(dir $(lastword $(MAKEFILE_LIST))))
PYTHON ?= $(firstword $(wildcard $(root)/.venv/bin/python) python3)

# The interpreter that builds, if it is of the functions' version, or else one of that version on the PATH; or none.
compiler := $(if $(filter host,$(SLUICE_BUILD)),$(PYTHON),$(shell for each in "$(PYTHON)" "$(SLUICE_RUNTIME)"; do \
	"$$each" -c 'import sys; sys.exit(sys.implementation.cache_tag != sys.argv[1])' \
		"$(subst .,,$(subst python,cpython-,$(SLUICE_RUNTIME)))" 2>/dev/null && { echo "$$each"; break; }; done))
# "unchecked": archives keep no times that Python could check.
compile := $(if $(compiler),"$(compiler)" -m compileall -q --invalidation-mode unchecked-hash)
