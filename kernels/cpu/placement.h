/* Where threads run: helpers leave processors to each other and to the caller.
 *
 * A thread that wakes another one often gets it onto its own processor though others idle, and two threads take as long as
 * one: Linux does not search far for an idle processor where few share a cache (SIS_UTIL), and in a virtual machine it
 * counts one that sleeps as taken by others (available_idle_cpu, both in kernel/sched). A sleeping helper is therefore
 * kept off the processors of the caller and of those who are awake, and off those where others fell asleep, before it is
 * woken; as soon as it runs, it may run wherever the caller may, also if that has changed since the helper began.
 *
 *     caller, on processor 1                        helper, asleep on processor 1 or elsewhere
 *     ----------------------                        ------------------------------------------
 *     may run on {0, 1, 2, 3}
 *     allow the helper {0, 2, 3}, wake it     ----> wakes on 0, 2 or 3
 *                                                   allow itself {0, 1, 2, 3}
 *
 * Elsewhere than on Linux nothing of this happens. To be included first: it asks for declarations that POSIX lacks.
 */
#ifndef XPC_PLACEMENT_H
#define XPC_PLACEMENT_H

#if defined(__linux__) && !defined(__ANDROID__)

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <pthread.h>
#include <sched.h>

typedef cpu_set_t xpc_processors;

/* The processor that runs this thread, or one that does not exist. */
static int xpc_processor(void)
{
    int processor = sched_getcpu();
    return processor >= 0 && processor < CPU_SETSIZE ? processor : -1;
}

static void xpc_no_processors(xpc_processors *set)
{
    CPU_ZERO(set);
}

static void xpc_add_processor(xpc_processors *set, int processor)
{
    if (processor >= 0)
        CPU_SET(processor, set);
}

/* Where this thread may run; 0 where that cannot be told. */
static int xpc_allowed_processors(xpc_processors *allowed)
{
    return !pthread_getaffinity_np(pthread_self(), sizeof *allowed, allowed);
}

/* Let a thread run on what is allowed and not taken; where nothing is left, on all that is allowed, and 0. A caller that is
 * bound to a single processor says nothing about where others may run. */
static int xpc_keep_off(pthread_t thread, const xpc_processors *allowed, const xpc_processors *taken)
{
    xpc_processors both, rest;
    CPU_AND(&both, allowed, taken);
    CPU_XOR(&rest, allowed, &both);
    if (CPU_COUNT(&rest) > 0)
        return !pthread_setaffinity_np(thread, sizeof rest, &rest);
    if (CPU_COUNT(allowed) > 1)
        pthread_setaffinity_np(thread, sizeof *allowed, allowed);
    return 0;
}

/* Let this thread run on all that is allowed. */
static void xpc_allow_processors(const xpc_processors *allowed)
{
    pthread_setaffinity_np(pthread_self(), sizeof *allowed, allowed);
}

#else

#include <pthread.h>

typedef int xpc_processors;

static int xpc_processor(void)
{
    return -1;
}

static void xpc_no_processors(xpc_processors *set)
{
    *set = 0;
}

static void xpc_add_processor(xpc_processors *set, int processor)
{
    (void)set, (void)processor;
}

static int xpc_allowed_processors(xpc_processors *allowed)
{
    (void)allowed;
    return 0;
}

static int xpc_keep_off(pthread_t thread, const xpc_processors *allowed, const xpc_processors *taken)
{
    (void)thread, (void)allowed, (void)taken;
    return 0;
}

static void xpc_allow_processors(const xpc_processors *allowed)
{
    (void)allowed;
}

#endif

#endif
