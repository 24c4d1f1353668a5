/* A libvixDiskLib for the lab: the C interface of VMware's library, as its clients use it, in front of the lab's block
 * service (service.py). What it offers behaves as documented: sectors of 512 bytes, VIX_ASYNC from ReadAsync with the
 * completion on a thread of the library, chunked allocation queries, the genuine error codes. It is for reading only.
 *
 * Every open disk has its own connection. A request is queued and sent at once under one lock, so that replies come in
 * the order of the queue; one thread per disk receives them, straight into the caller's buffer. A synchronous read is an
 * asynchronous one that is waited for.
 *
 * The file lab-service beside the library says where the service is: "unix:/path" or "tcp:127.0.0.1:port". */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <arpa/inet.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define SECTOR 512
#define MIN_CHUNK 128
#define MAX_CHUNKS (512 * 1024)
#define OPEN_READ_ONLY 4
#define EXPORT __attribute__ ((visibility ("default")))

typedef uint64_t VixError;
enum {
  VIX_OK = 0, VIX_E_FAIL = 1, VIX_E_OUT_OF_MEMORY = 2, VIX_E_INVALID_ARG = 3, VIX_E_FILE_NOT_FOUND = 4,
  VIX_E_NOT_SUPPORTED = 6, VIX_E_FILE_ERROR = 7, VIX_E_FILE_READ_ONLY = 11, VIX_E_FILE_ACCESS_ERROR = 13,
  VIX_E_HOST_USER_PERMISSIONS = 3014, VIX_E_VM_NOT_FOUND = 4000, VIX_E_SNAPSHOT_NOTFOUND = 13003,
  VIX_E_HOST_TCP_CONN_LOST = 14011, VIX_E_DISK_NOINIT = 16001, VIX_E_DISK_OUTOFRANGE = 16007,
  VIX_E_CANNOT_CONNECT_TO_HOST = 18000, VIX_ASYNC = 25000,
};

typedef void LogFunction (const char *format, va_list arguments);
typedef void Callback (void *data, VixError result);

typedef struct {
  char *vmx_spec, *server_name, *thumbprint;
  long private_use;
  int cred_type;                        /* 1 user and password, 2 session cookie */
  union {
    struct { char *user, *password; } uid;
    struct { char *cookie, *user, *key; } session;
  } creds;
  uint32_t port, nfc_host_port;
  char *vim_api_version;
  char reserved[8];
  void *state;
  struct { char *id, *datastore, *snapshot; } storage_object;
  int spec_type;
} ConnectParams;

typedef struct { uint32_t cylinders, heads, sectors; } Geometry;

typedef struct {
  Geometry bios, physical;
  uint64_t capacity;
  int adapter_type, links;
  char *parent_hint, *uuid;
  uint32_t logical_sector, physical_sector;
} Info;

typedef struct { uint64_t offset, length; } Block;
typedef struct { uint32_t count; Block blocks[1]; } BlockList;

typedef struct { char *hello; size_t size; const char *transport; } Connection;

struct request {                        /* on the wire, little-endian */
  uint32_t op, size;
  uint64_t start, count;
};
struct reply { uint32_t error, size; };
enum { HELLO = 1, OPEN = 2, READ = 3, ALLOCATED = 4 };

typedef struct pending {
  struct pending *next;
  void *buffer;                         /* NULL: `received` is allocated to the size of the reply */
  uint32_t size;
  void *received;
  Callback *callback;
  void *data;
  bool done;
  VixError result;
} Pending;

typedef struct {
  int fd;
  pthread_t receiver;
  pthread_mutex_t sending, lock;
  pthread_cond_t news;
  Pending *first, **last;
  unsigned async;
  bool lost;
  uint64_t capacity;
  char uuid[64];
  const char *transport;
} Disk;

static bool initialised;
static LogFunction *log_function, *warn_function;

static void __attribute__ ((format (printf, 2, 3)))
say (LogFunction *function, const char *format, ...)
{
  va_list arguments;
  if (!function)
    return;
  va_start (arguments, format);
  function (format, arguments);
  va_end (arguments);
}

/* the wire */

static bool
transfer (int fd, void *data, size_t size, bool sending)
{
  for (char *at = data; size > 0;) {
    ssize_t count = sending ? send (fd, at, size, MSG_NOSIGNAL) : recv (fd, at, size, 0);
    if (count < 0 && errno == EINTR)
      continue;
    if (count <= 0)
      return false;
    at += count;
    size -= count;
  }
  return true;
}

static bool
service_address (char *text, size_t size)
{
  Dl_info where;
  char path[4096];
  if (!dladdr ((void *) service_address, &where))
    return false;
  snprintf (path, sizeof path, "%s", where.dli_fname);
  char *slash = strrchr (path, '/');
  snprintf (slash ? slash + 1 : path, sizeof path - (slash ? slash + 1 - path : 0), "lab-service");
  FILE *file = fopen (path, "re");
  if (!file)
    return false;
  bool good = fgets (text, size, file) != NULL;
  fclose (file);
  text[good ? strcspn (text, "\n") : 0] = 0;
  return good;
}

static int
call (void)
{
  char text[sizeof ((struct sockaddr_un *) 0)->sun_path + 5];
  if (!service_address (text, sizeof text))
    return -1;
  bool local = strncmp (text, "unix:", 5) == 0;
  char *colon = strrchr (text, ':');
  struct sockaddr_un un = { .sun_family = AF_UNIX };
  struct sockaddr_in in = { .sin_family = AF_INET };
  if (local)
    memcpy (un.sun_path, text + 5, strlen (text + 5) + 1);
  else {
    if (strncmp (text, "tcp:", 4) != 0 || colon < text + 4)
      return -1;
    *colon = 0;
    in.sin_port = htons (atoi (colon + 1));
    if (inet_pton (AF_INET, text + 4, &in.sin_addr) != 1)
      return -1;
  }
  int fd = socket (local ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return -1;
  int one = 1;
  if (!local)
    setsockopt (fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (connect (fd, local ? (void *) &un : (void *) &in, local ? sizeof un : sizeof in) == 0)
    return fd;
  close (fd);
  return -1;
}

static VixError
ask (int fd, uint32_t op, const void *data, uint32_t size, void *answer, uint32_t room)
{
  struct request request = { .op = op, .size = size };
  struct reply reply;
  if (!transfer (fd, &request, sizeof request, true) || !transfer (fd, (void *) data, size, true)
      || !transfer (fd, &reply, sizeof reply, false) || reply.size > room
      || !transfer (fd, answer, reply.size, false))
    return VIX_E_HOST_TCP_CONN_LOST;
  return reply.error;
}

/* Connect and log in. */
static VixError
greet (const Connection *connection, int *fd)
{
  *fd = call ();
  if (*fd < 0)
    return VIX_E_CANNOT_CONNECT_TO_HOST;
  VixError error = ask (*fd, HELLO, connection->hello, connection->size, NULL, 0);
  if (error) {
    close (*fd);
    *fd = -1;
  }
  return error;
}

/* requests of an open disk */

static void
finish (Disk *disk, Pending *pending, VixError result)
{
  if (pending->callback) {
    pending->callback (pending->data, result);
    free (pending);
    pthread_mutex_lock (&disk->lock);
    disk->async--;
  } else {
    pthread_mutex_lock (&disk->lock);
    pending->result = result;
    pending->done = true;
  }
  pthread_cond_broadcast (&disk->news);
  pthread_mutex_unlock (&disk->lock);
}

static Pending *
take (Disk *disk)
{
  pthread_mutex_lock (&disk->lock);
  Pending *pending = disk->first;
  if (pending) {
    disk->first = pending->next;
    if (!disk->first)
      disk->last = &disk->first;
  }
  pthread_mutex_unlock (&disk->lock);
  return pending;
}

static void *
receive (void *argument)
{
  Disk *disk = argument;
  struct reply reply;
  Pending *pending = NULL;
  while (transfer (disk->fd, &reply, sizeof reply, false)) {
    pending = take (disk);
    if (!pending)
      break;
    void *buffer = pending->buffer;
    if (!buffer)
      buffer = pending->received = malloc (reply.size + 1);
    else if (!reply.error && reply.size != pending->size)
      break;
    if (!buffer || !transfer (disk->fd, buffer, reply.size, false))
      break;
    pending->size = reply.size;
    finish (disk, pending, reply.error);
    pending = NULL;
  }
  pthread_mutex_lock (&disk->lock);
  disk->lost = true;
  pthread_mutex_unlock (&disk->lock);
  shutdown (disk->fd, SHUT_RDWR);
  for (; pending || (pending = take (disk)); pending = NULL)
    finish (disk, pending, VIX_E_HOST_TCP_CONN_LOST);
  return NULL;
}

static VixError
submit (Disk *disk, uint32_t op, uint64_t start, uint64_t count, const void *data, uint32_t size, Pending *pending)
{
  struct request request = { .op = op, .size = size, .start = start, .count = count };
  pthread_mutex_lock (&disk->sending);
  pthread_mutex_lock (&disk->lock);
  bool lost = disk->lost;
  if (!lost) {
    pending->next = NULL;
    *disk->last = pending;
    disk->last = &pending->next;
    disk->async += pending->callback != NULL;
  }
  pthread_mutex_unlock (&disk->lock);
  /* When sending fails the receiver sees the end too, and fails what is queued. */
  if (!lost && (!transfer (disk->fd, &request, sizeof request, true) || !transfer (disk->fd, (void *) data, size, true)))
    shutdown (disk->fd, SHUT_RDWR);
  pthread_mutex_unlock (&disk->sending);
  return lost ? VIX_E_HOST_TCP_CONN_LOST : VIX_OK;
}

static VixError
await (Disk *disk, Pending *pending)
{
  pthread_mutex_lock (&disk->lock);
  while (!pending->done)
    pthread_cond_wait (&disk->news, &disk->lock);
  pthread_mutex_unlock (&disk->lock);
  return pending->result;
}

static VixError
check_range (const Disk *disk, uint64_t start, uint64_t count)
{
  if (!disk || !count || count > UINT32_MAX / SECTOR)
    return VIX_E_INVALID_ARG;
  if (start > disk->capacity || count > disk->capacity - start)
    return VIX_E_DISK_OUTOFRANGE;
  return VIX_OK;
}

/* the interface */

EXPORT VixError
VixDiskLib_InitEx (uint32_t major, uint32_t minor, LogFunction *log, LogFunction *warn, LogFunction *panic,
                   const char *libdir, const char *config)
{
  (void) panic;
  (void) config;
  if (major < 5 || major > 8 || (major == 8 && minor > 0))
    return VIX_E_INVALID_ARG;
  log_function = log;
  warn_function = warn;
  initialised = true;
  say (log, "VixDiskLib: version 8.0 of the lab, library directory %s\n", libdir ? libdir : "(none)");
  return VIX_OK;
}

EXPORT VixError
VixDiskLib_Init (uint32_t major, uint32_t minor, LogFunction *log, LogFunction *warn, LogFunction *panic,
                 const char *libdir)
{
  return VixDiskLib_InitEx (major, minor, log, warn, panic, libdir, NULL);
}

EXPORT void
VixDiskLib_Exit (void)
{
  initialised = false;
}

EXPORT const char *
VixDiskLib_ListTransportModes (void)
{
  return "file:nbdssl:nbd";
}

EXPORT ConnectParams *
VixDiskLib_AllocateConnectParams (void)
{
  return calloc (1, sizeof (ConnectParams));
}

EXPORT void
VixDiskLib_FreeConnectParams (ConnectParams *params)
{
  free (params);
}

static const char *
choose_transport (const char *modes)
{
  if (!modes || !*modes)
    return "nbdssl";
  for (const char *at = modes; *at; at += strcspn (at, ":"), at += *at == ':') {
    size_t size = strcspn (at, ":");
    if (size == 6 && strncmp (at, "nbdssl", 6) == 0)
      return "nbdssl";
    if (size == 3 && strncmp (at, "nbd", 3) == 0)
      return "nbd";
  }
  return NULL;
}

static bool
pack (Connection *connection, const char *const *texts, size_t count)
{
  for (size_t i = 0; i < count; i++)
    connection->size += strlen (texts[i] ? texts[i] : "") + 1;
  char *at = connection->hello = malloc (connection->size);
  for (size_t i = 0; at && i < count; i++)
    at = stpcpy (at, texts[i] ? texts[i] : "") + 1;
  return connection->hello != NULL;
}

EXPORT VixError
VixDiskLib_ConnectEx (const ConnectParams *params, char read_only, const char *snapshot, const char *transports,
                      Connection **result)
{
  int fd;
  (void) read_only;
  if (!initialised)
    return VIX_E_DISK_NOINIT;
  if (!params || !result || !params->vmx_spec || !params->server_name)
    return VIX_E_INVALID_ARG;
  const char *transport = choose_transport (transports);
  if (!transport) {
    say (warn_function, "VixDiskLib: no transport of %s is possible here\n", transports);
    return VIX_E_NOT_SUPPORTED;
  }
  bool cookie = params->cred_type == 2;
  if (!cookie && params->cred_type != 1)
    return VIX_E_INVALID_ARG;
  const char *texts[] = {
    cookie ? "cookie" : "password", cookie ? params->creds.session.user : params->creds.uid.user,
    cookie ? params->creds.session.cookie : params->creds.uid.password,
    cookie ? params->creds.session.key : NULL, params->server_name, params->thumbprint, params->vmx_spec, snapshot,
  };
  Connection *connection = calloc (1, sizeof *connection);
  if (!connection || !pack (connection, texts, sizeof texts / sizeof *texts)) {
    free (connection);
    return VIX_E_OUT_OF_MEMORY;
  }
  connection->transport = transport;
  VixError error = greet (connection, &fd);
  if (error) {
    free (connection->hello);
    free (connection);
    return error;
  }
  close (fd);
  say (log_function, "VixDiskLib: connected to %s\n", params->server_name);
  *result = connection;
  return VIX_OK;
}

EXPORT VixError
VixDiskLib_Connect (const ConnectParams *params, Connection **result)
{
  return VixDiskLib_ConnectEx (params, 0, NULL, NULL, result);
}

EXPORT VixError
VixDiskLib_Disconnect (Connection *connection)
{
  if (!connection)
    return VIX_E_INVALID_ARG;
  free (connection->hello);
  free (connection);
  return VIX_OK;
}

EXPORT VixError
VixDiskLib_PrepareForAccess (const ConnectParams *params, const char *identity)
{
  return initialised && params && identity ? VIX_OK : VIX_E_INVALID_ARG;
}

EXPORT VixError
VixDiskLib_EndAccess (const ConnectParams *params, const char *identity)
{
  return initialised && params && identity ? VIX_OK : VIX_E_INVALID_ARG;
}

EXPORT VixError
VixDiskLib_Open (const Connection *connection, const char *path, uint32_t flags, Disk **result)
{
  struct { uint64_t capacity; char uuid[56]; } answer = { 0 };
  if (!connection || !path || !result)
    return VIX_E_INVALID_ARG;
  if (!(flags & OPEN_READ_ONLY))
    return VIX_E_FILE_READ_ONLY;
  Disk *disk = calloc (1, sizeof *disk);
  if (!disk)
    return VIX_E_OUT_OF_MEMORY;
  VixError error = greet (connection, &disk->fd);
  if (error == VIX_E_HOST_USER_PERMISSIONS)
    error = VIX_E_HOST_TCP_CONN_LOST;   /* it was good enough to connect: the session has ended since */
  if (!error) {
    error = ask (disk->fd, OPEN, path, strlen (path), &answer, sizeof answer - 1);
    disk->capacity = answer.capacity;
    strcpy (disk->uuid, answer.uuid);
    disk->transport = connection->transport;
    disk->last = &disk->first;
    pthread_mutex_init (&disk->sending, NULL);
    pthread_mutex_init (&disk->lock, NULL);
    pthread_cond_init (&disk->news, NULL);
    if (!error && pthread_create (&disk->receiver, NULL, receive, disk) != 0)
      error = VIX_E_OUT_OF_MEMORY;
    if (error)
      close (disk->fd);
  }
  if (error) {
    say (warn_function, "VixDiskLib: opening %s failed with %llu\n", path, (unsigned long long) error);
    free (disk);
    return error;
  }
  *result = disk;
  return VIX_OK;
}

EXPORT const char *
VixDiskLib_GetTransportMode (const Disk *disk)
{
  return disk ? disk->transport : NULL;
}

EXPORT VixError
VixDiskLib_GetInfo (const Disk *disk, Info **result)
{
  if (!disk || !result)
    return VIX_E_INVALID_ARG;
  Info *info = calloc (1, sizeof *info);
  if (!info)
    return VIX_E_OUT_OF_MEMORY;
  info->bios = info->physical = (Geometry) { disk->capacity / (255 * 63), 255, 63 };
  info->capacity = disk->capacity;
  info->adapter_type = 3;               /* LSI Logic */
  info->links = 1;
  info->uuid = strdup (disk->uuid);
  info->logical_sector = info->physical_sector = SECTOR;
  *result = info;
  return VIX_OK;
}

EXPORT void
VixDiskLib_FreeInfo (Info *info)
{
  if (info)
    free (info->uuid);
  free (info);
}

EXPORT VixError
VixDiskLib_Read (Disk *disk, uint64_t start, uint64_t count, uint8_t *buffer)
{
  VixError error = buffer ? check_range (disk, start, count) : VIX_E_INVALID_ARG;
  Pending pending = { .buffer = buffer, .size = count * SECTOR };
  if (!error)
    error = submit (disk, READ, start, count, NULL, 0, &pending);
  return error ? error : await (disk, &pending);
}

EXPORT VixError
VixDiskLib_ReadAsync (Disk *disk, uint64_t start, uint64_t count, uint8_t *buffer, Callback *callback, void *data)
{
  VixError error = buffer && callback ? check_range (disk, start, count) : VIX_E_INVALID_ARG;
  if (error)
    return error;
  Pending *pending = calloc (1, sizeof *pending);
  if (!pending)
    return VIX_E_OUT_OF_MEMORY;
  *pending = (Pending) { .buffer = buffer, .size = count * SECTOR, .callback = callback, .data = data };
  error = submit (disk, READ, start, count, NULL, 0, pending);
  if (error)
    free (pending);
  return error ? error : VIX_ASYNC;
}

EXPORT VixError
VixDiskLib_Wait (Disk *disk)
{
  if (!disk)
    return VIX_E_INVALID_ARG;
  pthread_mutex_lock (&disk->lock);
  while (disk->async)
    pthread_cond_wait (&disk->news, &disk->lock);
  pthread_mutex_unlock (&disk->lock);
  return VIX_OK;
}

EXPORT VixError
VixDiskLib_Write (Disk *disk, uint64_t start, uint64_t count, const uint8_t *buffer)
{
  VixError error = buffer ? check_range (disk, start, count) : VIX_E_INVALID_ARG;
  return error ? error : VIX_E_FILE_READ_ONLY;
}

EXPORT VixError
VixDiskLib_Flush (Disk *disk)
{
  return disk ? VIX_OK : VIX_E_INVALID_ARG;
}

EXPORT VixError
VixDiskLib_QueryAllocatedBlocks (Disk *disk, uint64_t start, uint64_t count, uint64_t chunk, BlockList **result)
{
  VixError error = result ? check_range (disk, start, count) : VIX_E_INVALID_ARG;
  if (!error && (chunk < MIN_CHUNK || start % chunk || count % chunk || count / chunk > MAX_CHUNKS))
    error = VIX_E_INVALID_ARG;
  Pending pending = { 0 };
  if (!error)
    error = submit (disk, ALLOCATED, start, count, &chunk, sizeof chunk, &pending);
  if (!error)
    error = await (disk, &pending);
  if (!error) {
    BlockList *list = malloc (sizeof (BlockList) + pending.size);
    if (list) {
      list->count = pending.size / sizeof (Block);
      memcpy (list->blocks, pending.received, pending.size);
      *result = list;
    } else
      error = VIX_E_OUT_OF_MEMORY;
  }
  free (pending.received);
  return error;
}

EXPORT VixError
VixDiskLib_FreeBlockList (BlockList *list)
{
  free (list);
  return VIX_OK;
}

EXPORT VixError
VixDiskLib_Close (Disk *disk)
{
  if (!disk)
    return VIX_E_INVALID_ARG;
  VixDiskLib_Wait (disk);
  shutdown (disk->fd, SHUT_RDWR);
  pthread_join (disk->receiver, NULL);
  close (disk->fd);
  pthread_mutex_destroy (&disk->sending);
  pthread_mutex_destroy (&disk->lock);
  pthread_cond_destroy (&disk->news);
  free (disk);
  return VIX_OK;
}

EXPORT char *
VixDiskLib_GetErrorText (VixError error, const char *locale)
{
  static const struct { VixError error; const char *text; } texts[] = {
    { VIX_OK, "The operation was successful" },
    { VIX_E_OUT_OF_MEMORY, "Memory allocation failed, out of memory" },
    { VIX_E_INVALID_ARG, "One of the parameters was invalid" },
    { VIX_E_FILE_NOT_FOUND, "A file was not found" },
    { VIX_E_NOT_SUPPORTED, "The operation is not supported" },
    { VIX_E_FILE_ERROR, "A file access error occurred" },
    { VIX_E_FILE_READ_ONLY, "The file is write-protected" },
    { VIX_E_FILE_ACCESS_ERROR, "You do not have access rights to this file" },
    { VIX_E_HOST_USER_PERMISSIONS, "Insufficient permissions in the host operating system" },
    { VIX_E_VM_NOT_FOUND, "The virtual machine cannot be found" },
    { VIX_E_SNAPSHOT_NOTFOUND, "The snapshot does not exist" },
    { VIX_E_HOST_TCP_CONN_LOST, "The connection to the host was lost" },
    { VIX_E_DISK_NOINIT, "The virtual disk library was not initialized" },
    { VIX_E_DISK_OUTOFRANGE, "The specified sector is out of range" },
    { VIX_E_CANNOT_CONNECT_TO_HOST, "Cannot connect to the host" },
    { VIX_ASYNC, "The operation goes on asynchronously" },
  };
  (void) locale;
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
    if (texts[i].error == error)
      return strdup (texts[i].text);
  return strdup ("Unknown error");
}

EXPORT void
VixDiskLib_FreeErrorText (char *text)
{
  free (text);
}
