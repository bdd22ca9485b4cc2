/* What a payload without a host leaves: on the consoles, and in the writable partition. */
#ifndef APPPOT_RESULTS_H
#define APPPOT_RESULTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "host.h"

/* Makes a folder for this boot: the writable partition's /results/N. */
void results_open(void);
void results_output(bool is_error, const uint8_t *bytes, size_t size);
/* Writes the result to the folder and, as one line `apppot-result {JSON}`, to the consoles. */
void results_close(const struct outcome *outcome, double seconds);

#endif
