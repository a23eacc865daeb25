# A thin cover over meson and the scripts in tools/.  `make help` lists the targets.
BUILD ?= build
CCACHE := $(shell command -v ccache 2>/dev/null)

.PHONY: all build run check check-slow bench bench-engine fuzz fmt install clean help

all: build

build: $(BUILD)/build.ninja
	@ninja -C $(BUILD) $(NINJAFLAGS)

$(BUILD)/build.ninja: tools/packages
	@tools/bootstrap build
	@test -f $@ || CC="$(CCACHE) $(or $(CC_NAME),gcc)" meson setup $(BUILD) >/dev/null || \
		{ tail -n 20 $(BUILD)/meson-logs/meson-log.txt; exit 1; }
	@touch $@

# Boot a Debian 12 guest to a login on this terminal.  Ctrl-a x leaves.
run:
	@tools/bootstrap build guest
	@$(MAKE) --no-print-directory build NINJAFLAGS=--quiet
	@tools/mkguest
	@tools/run-guest

check:
	@tools/bootstrap build guest check
	@tools/check

# What takes an hour: Debian's kernel on /dev/kvm where KVM emulates ring 0, beside QEMU.
check-slow:
	@tools/bootstrap build guest check bench
	@tools/check slow

bench:
	@tools/bootstrap build guest bench
	@$(MAKE) --no-print-directory build NINJAFLAGS=--quiet
	@bench/run
	@bench/engine/run --quick

# The software CPU next to QEMU's TCG, all rows: 15 minutes.  ROWS=... for some, ARGS=... for options.
bench-engine:
	@tools/bootstrap build guest bench
	@$(MAKE) --no-print-directory build NINJAFLAGS=--quiet
	@bench/engine/run $(ARGS) $(ROWS)

# FUZZ_SECONDS a target (default 60); TARGET=name for one.
fuzz:
	@tools/bootstrap build check
	@tools/fuzz $(TARGET)

fmt:
	@tools/bootstrap dev
	@git ls-files '*.c' '*.h' | xargs clang-format -i

# DESTDIR and PREFIX (default /usr/local) are honoured.
install:
	@tools/bootstrap build
	@test -f build-release/build.ninja || meson setup build-release --buildtype=release -Doptimization=2 \
		--prefix=$(or $(PREFIX),/usr/local) >/dev/null
	@meson install -C build-release

clean:
	@rm -rf build build-*

help:
	@echo "make            build into build/"
	@echo "make run        boot a Debian 12 guest in this terminal (login root, password sampan)"
	@echo "make check      all tests; the last line says how many passed and failed"
	@echo "make check-slow the tests that take an hour"
	@echo "make bench      measure next to QEMU in one run: 3 minutes"
	@echo "make bench-engine  the software CPU next to TCG, every row: 15 minutes (ROWS=, ARGS=)"
	@echo "make fuzz       every fuzz target for FUZZ_SECONDS (60)"
	@echo "make fmt        format the sources"
	@echo "make install    install under PREFIX (/usr/local)"
