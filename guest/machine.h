/* The guest's file system: layers, scratch, overlay, kernel file systems, shared folders. */
#ifndef APPPOT_MACHINE_H
#define APPPOT_MACHINE_H

#include <stdbool.h>

#include "spec.h"

/* The scratch file system is held open here, so that guest root can read its own changes as
 * /proc/1/fd/100/upper although no path leads there. */
#define SCRATCH_DESCRIPTOR 100
/* The folder of the mounted layers, 0 the lowest. */
#define LAYERS_DESCRIPTOR 101

/* What the agent needs before it can speak: /dev and /proc of the initramfs. */
void machine_mount_early(void);

/* False: see last_failure(). */
bool machine_make_root(const struct machine_spec *spec);
bool machine_mount_shares(const struct machine_spec *spec);

/* Nothing more is set up: what is found in scratch from here on is the work of others. */
void machine_seal(void);

/* Writes out the writable shared folders; 0 or the first errno. */
int machine_sync_shares(void);

/* Writes out a root or a scratch that outlives the machine, as an unmounting would; 0 or errno. */
int machine_close_root(void);

#endif
