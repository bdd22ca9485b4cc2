/* What all parts of the agent share. */
#ifndef APPPOT_AGENT_H
#define APPPOT_AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef AGENT_VERSION
#define AGENT_VERSION "1.0.0"
#endif

/* Test mode: no PID 1 and no machine, only commands; never touches what it did not start. */
bool agent_is_test(void);

/* Makes the machine as its specification asks and says READY; does not return if it cannot. */
void agent_build_machine(uint8_t *bytes, size_t size);

/* Ends the machine: kills all, writes out the shares, says BYE if asked, powers off. */
_Noreturn void agent_power_off(bool say_bye);
/* Says FAILED for the machine and ends it. */
_Noreturn void agent_fail(const char *stage, int error, const char *text);

#endif
