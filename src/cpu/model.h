/*
 * Names: of CPUID feature bits, and of the CPU models that are made of them.
 *
 * A feature's name is QEMU's and libvirt's; where those and Linux' /proc/cpuinfo differ, all of
 * them are found.  A model is a list of features with a vendor, family, model and stepping, and
 * may begin with another model's list.
 */
#pragma once

#include "cpu/cpuid.h"

enum cpuid_reg {
	CPUID_EAX,
	CPUID_EBX,
	CPUID_ECX,
	CPUID_EDX,
};

struct cpu_feature {
	const char *name;
	uint32_t leaf;
	uint8_t sub, reg, bit;
};

/* Sorted by leaf, sub-leaf, register and bit; aliases follow their name. */
extern const struct cpu_feature cpu_features[];
extern const unsigned cpu_nfeatures;

/* Length len of the name; NULL when there is none. */
const struct cpu_feature *cpu_feature_find(const char *name, size_t len);
bool cpu_feature_has(const struct cpuid_table *t, const struct cpu_feature *f);
/* Sets or clears the bit; an absent leaf has nothing to clear, and is added to set one.  False:
 * the table is full. */
bool cpu_feature_set(struct cpuid_table *t, const struct cpu_feature *f, bool on);

struct cpu_model {
	const char *name;
	/* For people. */
	const char *title;
	/* Its features come first.  [NULL] */
	const char *base;
	/* 12 characters. */
	const char *vendor;
	uint16_t family, model, stepping;
	/* Highest basic leaf. */
	uint32_t level;
	/* Names with blanks between. */
	const char *features;
};

/* All but "host", which is what the engine offers. */
extern const struct cpu_model cpu_models[];
extern const unsigned cpu_nmodels;

const struct cpu_model *cpu_model_find(const char *name);
/* The model's feature bits, nothing else, in *ret. */
void cpu_model_features(const struct cpu_model *m, struct cpuid_table *ret);
/* Features of the model that the engine cannot give, up to max; returns how many there are. */
unsigned cpu_model_missing(const struct cpu_model *m, const struct cpuid_table *engine,
			   const struct cpu_feature **ret, unsigned max);
