/* A CUDA driver and runtime without a GPU, for CuPy itself: "device" memory is host memory full of garbage, modules are
   libraries of the host that threads.py has built.  Whatever is asked for is done at once, but copies to the device on
   another stream than the null stream: as late as can be, when something waits for them.

   Stricter than a driver: a copy from or to the wrong side, a kernel of another device and a launch beyond a card's
   limits are errors, and said; who reads or writes behind the end of allocated memory ends the program.  The runtime's
   functions have `emulated_` before their names: sitecustomize.py makes those that are linked into CuPy jump to them. */
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>

#include <dlfcn.h>
#include <driver_types.h> /* nvidia-cuda-runtime */
#include <sys/mman.h>

namespace {
enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, INVALID_IMAGE = 200, NOT_FOUND = 500 };
enum { NOT_SUPPORTED = 801, DEVICES = 2, VERSION = 13000, MOST_THREADS = 1024, MOST_BLOCKS = 0x7fffffff, MOST_SHARED = 48 << 10 };
const size_t MEMORY = size_t(8) << 30, PAGE = 4096;
const unsigned char GARBAGE = 0xA5;
struct Block {
  size_t size;
  int device;
  char* mapped;
  size_t mapped_size;
};
struct Function {
  void (*run)(unsigned grid, unsigned block, void** arguments);
  std::string name;
  int device;
};
struct Stream {
  std::deque<std::function<void()>> late;
  size_t done = 0;
  void run_until(size_t count) {
    for (; done < count && !late.empty(); ++done, late.pop_front()) late.front()();
  }
  size_t given() const { return done + late.size(); }
};
struct Event {
  Stream* stream = nullptr;
  size_t count = 0; /* of what its stream had been given */
};
thread_local int device = 0;
std::recursive_mutex lock;
std::map<void*, Stream> streams;
std::map<void*, Event> events;
std::map<const char*, Block> blocks;
std::set<void*> locked;
size_t used = 0, handles = 0;

int say(int error, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fputs("emulated CUDA: ", stderr);
  vfprintf(stderr, format, arguments);
  fputs("\n", stderr);
  va_end(arguments);
  return error;
}
/* the block of device memory that holds so many bytes from `p` on, or null */
const Block* block_of(const void* pointer, size_t size) {
  const char* p = static_cast<const char*>(pointer);
  const std::lock_guard<std::recursive_mutex> guard(lock);
  auto found = blocks.upper_bound(p);
  if (found == blocks.begin()) return nullptr;
  --found;
  return p + size <= found->first + found->second.size ? &found->second : nullptr;
}
/* what is wrong with a copy, or SUCCESS */
int refused(const void* to, const void* from, size_t size, int kind) {
  const bool from_device = block_of(from, size), to_device = block_of(to, size);
  const bool expected_from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  const bool expected_to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  if (!size || kind == cudaMemcpyDefault || (from_device == expected_from && to_device == expected_to)) return SUCCESS;
  return say(INVALID_VALUE, "a copy of kind %d from device: %d to device: %d", kind, from_device, to_device);
}
int copy(void* to, const void* from, size_t size, int kind) {
  if (const int error = refused(to, from, size, kind)) return error;
  return memmove(to, from, size), SUCCESS;
}
template <class T> int make(std::map<void*, T>& all, void** handle) {
  const std::lock_guard<std::recursive_mutex> guard(lock);
  *handle = reinterpret_cast<void*>(handles += 16);
  return all[*handle] = T(), SUCCESS;
}
int finish(void* stream) {
  const std::lock_guard<std::recursive_mutex> guard(lock);
  if (stream) streams[stream].run_until(-1);
  return SUCCESS;
}
int finish_all() {
  const std::lock_guard<std::recursive_mutex> guard(lock);
  for (auto& stream : streams) stream.second.run_until(-1);
  return SUCCESS;
}
int wait_for(void* event) {
  const std::lock_guard<std::recursive_mutex> guard(lock);
  const Event& e = events[event];
  if (e.stream) e.stream->run_until(e.count);
  return SUCCESS;
}
}  // namespace

extern "C" {
/* the runtime: devices */
int emulated_cudaGetDevice(int* d) { return *d = device, SUCCESS; }
int emulated_cudaSetDevice(int d) { return d < 0 || d >= DEVICES ? INVALID_DEVICE : (device = d, SUCCESS); }
int emulated_cudaGetDeviceCount(int* count) { return *count = DEVICES, SUCCESS; }
int emulated_cudaDriverGetVersion(int* version) { return *version = VERSION, SUCCESS; }
int emulated_cudaRuntimeGetVersion(int* version) { return *version = VERSION, SUCCESS; }
int emulated_cudaDeviceSynchronize() { return finish_all(); }
int emulated_cudaDeviceCanAccessPeer(int* can, int, int) { return *can = 0, SUCCESS; }
int emulated_cudaGetDeviceProperties(cudaDeviceProp* p, int d) {
  if (d < 0 || d >= DEVICES) return INVALID_DEVICE;
  memset(p, 0, sizeof *p);
  strcpy(p->name, "emulated card");
  p->major = 9;
  p->totalGlobalMem = MEMORY;
  p->multiProcessorCount = 2;
  return SUCCESS;
}
int emulated_cudaDeviceGetAttribute(int* value, int attribute, int) {
  *value = attribute == cudaDevAttrComputeCapabilityMajor   ? 9
           : attribute == cudaDevAttrMaxThreadsPerBlock     ? MOST_THREADS
           : attribute == cudaDevAttrMaxBlockDimX           ? MOST_THREADS
           : attribute == cudaDevAttrMaxGridDimX            ? MOST_BLOCKS
           : attribute == cudaDevAttrMaxSharedMemoryPerBlock ? MOST_SHARED
           : attribute == cudaDevAttrWarpSize               ? 32
           : attribute == cudaDevAttrMultiProcessorCount    ? 2
                                                            : 0;
  return SUCCESS;
}
const char* emulated_cudaGetErrorName(int error) {
  return error == INVALID_VALUE    ? "cudaErrorInvalidValue"
         : error == OUT_OF_MEMORY  ? "cudaErrorMemoryAllocation"
         : error == INVALID_DEVICE ? "cudaErrorInvalidDevice"
         : error == NOT_SUPPORTED  ? "cudaErrorNotSupported"
                                   : "cudaErrorUnknown";
}
const char* emulated_cudaGetErrorString(int error) {
  return error == OUT_OF_MEMORY ? "out of memory" : "an error of the emulated CUDA";
}
int emulated_cudaGetLastError() { return SUCCESS; }
int emulated_other(const char* name) { return say(NOT_SUPPORTED, "%s is not there", name); }

/* memory */
int emulated_cudaMalloc(void** pointer, size_t size) {
  const std::lock_guard<std::recursive_mutex> guard(lock);
  *pointer = nullptr;
  if (!size) return SUCCESS;
  if (used + size > MEMORY) return OUT_OF_MEMORY;
  const size_t whole = (size + PAGE - 1) / PAGE * PAGE;
  void* mapped = mmap(nullptr, whole + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return say(OUT_OF_MEMORY, "%s", strerror(errno));
  char* const begin = static_cast<char*>(mapped);
  if (mprotect(begin + whole, PAGE, PROT_NONE)) return say(OUT_OF_MEMORY, "%s", strerror(errno));
  *pointer = begin + whole - size; /* as aligned as its size is */
  memset(*pointer, GARBAGE, size);
  blocks[static_cast<char*>(*pointer)] = {size, device, begin, whole + PAGE};
  used += size;
  return SUCCESS;
}
int emulated_cudaFree(void* pointer) {
  const std::lock_guard<std::recursive_mutex> guard(lock);
  if (!pointer) return SUCCESS;
  const auto found = blocks.find(static_cast<char*>(pointer));
  if (found == blocks.end()) return say(INVALID_VALUE, "memory is freed that was not allocated");
  finish_all();
  used -= found->second.size;
  munmap(found->second.mapped, found->second.mapped_size);
  blocks.erase(found);
  return SUCCESS;
}
int emulated_cudaHostAlloc(void** pointer, size_t size, unsigned) {
  *pointer = malloc(size + 1);
  return *pointer ? (memset(*pointer, GARBAGE, size), SUCCESS) : OUT_OF_MEMORY;
}
int emulated_cudaHostRegister(void* pointer, size_t size, unsigned) {
  const std::lock_guard<std::recursive_mutex> guard(lock);
  if (reinterpret_cast<size_t>(pointer) % PAGE || !size) return say(INVALID_VALUE, "memory to lock is no whole pages");
  return locked.insert(pointer).second ? SUCCESS : say(INVALID_VALUE, "memory is locked twice");
}
int emulated_cudaHostUnregister(void* pointer) {
  const std::lock_guard<std::recursive_mutex> guard(lock);
  finish_all();
  return locked.erase(pointer) ? SUCCESS : say(INVALID_VALUE, "memory is unlocked that was not locked");
}
int emulated_cudaFreeHost(void* pointer) { return finish_all(), free(pointer), SUCCESS; }
int emulated_cudaMemGetInfo(size_t* left, size_t* all) { return *left = MEMORY - used, *all = MEMORY, SUCCESS; }
int emulated_cudaMemcpy(void* to, const void* from, size_t size, int kind) { return copy(to, from, size, kind); }
int emulated_cudaMemcpyAsync(void* to, const void* from, size_t size, int kind, void* stream) {
  const std::lock_guard<std::recursive_mutex> guard(lock);
  if (!stream || kind != cudaMemcpyHostToDevice) return finish(stream), copy(to, from, size, kind);
  if (const int error = refused(to, from, size, kind)) return error;
  streams[stream].late.push_back([=] { memmove(to, from, size); });
  return SUCCESS;
}
int emulated_cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t size, void* stream) {
  return finish(stream), copy(to, from, size, cudaMemcpyDeviceToDevice);
}
int emulated_cudaMemsetAsync(void* pointer, int value, size_t size, void* stream) {
  finish(stream);
  return block_of(pointer, size) ? (memset(pointer, value, size), SUCCESS) : INVALID_VALUE;
}
int emulated_cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  memset(attributes, 0, sizeof *attributes);
  if (const Block* block = block_of(pointer, 1)) {
    attributes->type = cudaMemoryTypeDevice;
    attributes->device = block->device;
    attributes->devicePointer = const_cast<void*>(pointer);
  }
  return SUCCESS;
}

/* streams and events */
int emulated_cudaStreamCreateWithPriority(void** stream, unsigned flags, int) {
  if (flags != cudaStreamNonBlocking) return say(NOT_SUPPORTED, "streams that wait for the null stream");
  return make(streams, stream);
}
int emulated_cudaStreamDestroy(void* stream) { return finish(stream); }
int emulated_cudaStreamSynchronize(void* stream) { return finish(stream); }
int emulated_cudaStreamWaitEvent(void*, void* event, unsigned) { return wait_for(event); }
int emulated_cudaStreamIsCapturing(void*, int* whether) { return *whether = 0, SUCCESS; }
int emulated_cudaEventCreateWithFlags(void** event, unsigned) { return make(events, event); }
int emulated_cudaEventDestroy(void* event) {
  const std::lock_guard<std::recursive_mutex> guard(lock);
  return events.erase(event), SUCCESS;
}
int emulated_cudaEventRecord(void* event, void* stream) {
  const std::lock_guard<std::recursive_mutex> guard(lock);
  events[event] = stream ? Event{&streams[stream], streams[stream].given()} : Event();
  return SUCCESS;
}
int emulated_cudaEventSynchronize(void* event) { return wait_for(event); }
int emulated_cudaEventQuery(void* event) {
  const std::lock_guard<std::recursive_mutex> guard(lock);
  const Event& e = events[event];
  return e.stream && e.stream->done < e.count ? cudaErrorNotReady : cudaSuccess;
}

/* the driver; an "image" is the name of a library */
int cuGetErrorName(int, const char** text) { return *text = "CUDA_ERROR_UNKNOWN", SUCCESS; }
int cuGetErrorString(int, const char** text) { return *text = "an error of the emulated CUDA", SUCCESS; }
int cuDriverGetVersion(int* version) { return *version = VERSION, SUCCESS; }
int cuCtxGetCurrent(void** context) { return *context = reinterpret_cast<void*>(1 + size_t(device)), SUCCESS; }
int cuCtxGetDevice(int* d) { return *d = device, SUCCESS; }
int cuModuleLoadData(void** module, const void* image) {
  *module = dlopen(static_cast<const char*>(image), RTLD_NOW | RTLD_LOCAL);
  return *module ? SUCCESS : say(INVALID_IMAGE, "%s", dlerror());
}
int cuModuleUnload(void*) { return SUCCESS; }
int cuModuleGetFunction(void** function, void* module, const char* name) {
  void* run = dlsym(module, (std::string("run_") + name).c_str());
  if (!run) return say(NOT_FOUND, "there is no kernel %s", name);
  *function = new Function{reinterpret_cast<void (*)(unsigned, unsigned, void**)>(run), name, device};
  return SUCCESS;
}
int cuLaunchKernel(
    void* function, unsigned grid, unsigned grid_y, unsigned grid_z, unsigned block, unsigned block_y, unsigned block_z,
    unsigned shared, void* stream, void** arguments, void**
) {
  const Function& f = *static_cast<Function*>(function);
  if (f.device != device) return say(INVALID_VALUE, "%s: of device %d, on %d", f.name.c_str(), f.device, device);
  const bool fits = grid && grid <= MOST_BLOCKS && block && block <= MOST_THREADS && shared <= MOST_SHARED;
  if (!fits || grid_y != 1 || grid_z != 1 || block_y != 1 || block_z != 1)
    return say(INVALID_VALUE, "%s: a launch that no card takes, or of more than one axis", f.name.c_str());
  finish(stream);
  f.run(grid, block, arguments);
  return SUCCESS;
}
}
