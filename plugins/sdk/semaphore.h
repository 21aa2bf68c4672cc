/* What ready streams know of ready semaphores, and of ready eager ops. Private to the SDK. */
#ifndef SDK_SEMAPHORE_H
#define SDK_SEMAPHORE_H

#include "consort/sdk_driver.h"

struct cs_plugin_semaphore {
  const cs_host *host;
  const cs_plugin_device *device;
  cs_sdk_timeline *timeline;
};

/* Frees what a command of execute.c owns; does nothing for any other command. */
void cs_sdk_execute_release(void *context, cs_sdk_command command, void *payload);

/* After a failure the host may free what earlier commands still use: they are waited for first. */
cs_status cs_sdk_settle(cs_plugin_stream *stream, cs_status status);

#endif
