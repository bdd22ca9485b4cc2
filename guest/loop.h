/* The loop of the agent. */
#ifndef APPPOT_LOOP_H
#define APPPOT_LOOP_H

/* `children` is a descriptor that is readable when a process has ended. */
_Noreturn void loop_serve(int children);

#endif
