#pragma once
/* Never looked into here: only their sizes count. */
typedef int pthread_t;
typedef struct { int opaque[8]; } pthread_attr_t;
typedef struct { int opaque[8]; } pthread_mutex_t;
typedef struct { int opaque[4]; } pthread_mutexattr_t;
typedef struct { int opaque[5]; } pthread_cond_t;
typedef struct { int opaque[2]; } pthread_condattr_t;

int pthread_cond_broadcast(pthread_cond_t *);
int pthread_cond_destroy(pthread_cond_t *);
int pthread_cond_init(pthread_cond_t *, const pthread_condattr_t *);
int pthread_cond_signal(pthread_cond_t *);
int pthread_cond_wait(pthread_cond_t *, pthread_mutex_t *);
int pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
int pthread_join(pthread_t, void **);
int pthread_mutex_destroy(pthread_mutex_t *);
int pthread_mutex_init(pthread_mutex_t *, const pthread_mutexattr_t *);
int pthread_mutex_lock(pthread_mutex_t *);
int pthread_mutex_unlock(pthread_mutex_t *);
