/* A machine that stands still to be saved, and goes on later, here or elsewhere. */
#ifndef APPPOT_CHECKPOINT_H
#define APPPOT_CHECKPOINT_H

#include <stdbool.h>
#include <stdint.h>

#include "frame.h"

/* Opens the random pool, while the kernel's own devices are at their places. */
void checkpoint_open(void);

/* FREEZE: makes memory small to save, and says FROZEN. Nothing may be sent until THAW. */
const char *checkpoint_freeze(const struct frame *frame);
/* THAW: takes the host's time and randomness, and says THAWED. */
const char *checkpoint_thaw(const struct frame *frame);
bool checkpoint_is_frozen(void);

/* Sets the machine's clock; 0 or errno. */
int checkpoint_set_clock(uint64_t nanoseconds);

#endif
