/* Where threads run: helpers leave processors to each other and to the caller.
 *
 * A thread that wakes another one often gets it onto its own processor though others idle, and two threads take as long as
 * one: Linux does not search far for an idle processor where few share a cache (SIS_UTIL), and in a virtual machine it
 * counts one that sleeps as taken by others (available_idle_cpu, both in kernel/sched). A sleeping helper is therefore
 * kept off the processors of the caller and of those who are awake, and off those where others fell asleep, before it is
 * woken; as soon as it runs, it has those back that it had.
 *
 *     caller, on processor 1                        helper, asleep on processor 1 or elsewhere
 *     ----------------------                        ------------------------------------------
 *     allow it {0, 2, 3}, wake it             ----> wakes on 0, 2 or 3
 *                                                   allow itself {0, 1, 2, 3}, as before
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

/* Let a thread use none of `taken`, and keep what it might use before; 0 where that leaves it no processor. */
static int xpc_keep_off(pthread_t thread, const xpc_processors *taken, xpc_processors *before)
{
    xpc_processors both, rest;
    if (pthread_getaffinity_np(thread, sizeof *before, before))
        return 0;
    CPU_AND(&both, before, taken);
    CPU_XOR(&rest, before, &both);
    return CPU_COUNT(&rest) > 0 && !pthread_setaffinity_np(thread, sizeof rest, &rest);
}

static void xpc_give_back(pthread_t thread, const xpc_processors *before)
{
    pthread_setaffinity_np(thread, sizeof *before, before);
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

static int xpc_keep_off(pthread_t thread, const xpc_processors *taken, xpc_processors *before)
{
    (void)thread, (void)taken, (void)before;
    return 0;
}

static void xpc_give_back(pthread_t thread, const xpc_processors *before)
{
    (void)thread, (void)before;
}

#endif

#endif
