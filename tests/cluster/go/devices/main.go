// Pretended devices of the test node, offered to its kubelet over the kubelet's own gRPC APIs as a vendor's programs offer real ones.
//
//	devices --resource nvidia.com/gpu --count 8 --unhealthy FILE --kubelet-pid FILE     a device plugin (v1beta1)
//	devices --driver gpu.example.org --kubelet-root FOLDER                              the node's part of a DRA driver (v1)
//
// A container gets of a device its name in NVIDIA_VISIBLE_DEVICES and a device file that is /dev/null; of a claim it gets nothing, because the
// node's containerd may be older than CDI. What a driver publishes besides (DeviceClass, ResourceSlice) is for whoever runs this.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	plugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	dra "k8s.io/kubelet/pkg/apis/dra/v1"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

const often = 200 * time.Millisecond

func main() {
	resource := flag.String("resource", "", "name under which the devices are counted, such as nvidia.com/gpu")
	count := flag.Int("count", 8, "how many there are")
	unhealthy := flag.String("unhealthy", "", "file with the names of unhealthy devices, one a line; read again and again, and may be missing")
	pid := flag.String("kubelet-pid", "", "file that begins with the kubelet's process ID: where several nodes share the kubelet's fixed socket, only that one is registered with")
	driver := flag.String("driver", "", "name of a DRA driver")
	root := flag.String("kubelet-root", "/var/lib/kubelet", "the kubelet's --root-dir")
	flag.Parse()
	var err error
	switch {
	case (*resource == "") == (*driver == ""):
		err = fmt.Errorf("give exactly one of --resource and --driver")
	case *resource != "":
		err = offer(&counted{resource: *resource, count: *count, unhealthy: *unhealthy}, *pid)
	default:
		err = prepare(*driver, *root)
	}
	log.Fatal(err)
}

// ---- counted devices -------------------------------------------------------------------------------------------------------------------

type counted struct {
	plugin.UnimplementedDevicePluginServer
	resource, unhealthy string
	count               int
}

// offer serves the devices, and registers them again whenever a kubelet that starts has cleared its folder.
func offer(devices *counted, pidFile string) error {
	server := grpc.NewServer()
	plugin.RegisterDevicePluginServer(server, devices)
	socket := filepath.Join(plugin.DevicePluginPath, fmt.Sprintf("%s-%d.sock", strings.ReplaceAll(devices.resource, "/", "_"), os.Getpid()))
	for ; ; time.Sleep(often) {
		if _, err := os.Stat(socket); err == nil || !isOurs(pidFile) {
			continue
		}
		listener, err := net.Listen("unix", socket)
		if err != nil {
			return err
		}
		go func() { log.Printf("%s is no longer served: %v", socket, server.Serve(listener)) }()
		if err := register(devices.resource, filepath.Base(socket)); err != nil {
			// The next turn tries again, as after a kubelet's start.
			log.Printf("not registered: %v", err)
			listener.Close()
			continue
		}
		log.Printf("registered %d of %s", devices.count, devices.resource)
	}
}

// isOurs tells whether the kubelet behind the socket is the one of the pid file; the socket's place is fixed, and each new kubelet takes it.
func isOurs(pidFile string) bool {
	connection, err := net.Dial("unix", plugin.KubeletSocket)
	if err != nil {
		return false
	}
	defer connection.Close()
	if pidFile == "" {
		return true
	}
	text, _ := os.ReadFile(pidFile)
	wanted, _, _ := strings.Cut(string(text), " ")
	raw, err := connection.(*net.UnixConn).SyscallConn()
	if err != nil {
		return false
	}
	listening := 0
	_ = raw.Control(func(fd uintptr) {
		if peer, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED); err == nil {
			listening = int(peer.Pid)
		}
	})
	return wanted == strconv.Itoa(listening)
}

func register(resource, endpoint string) error {
	connection, err := grpc.NewClient("unix://"+plugin.KubeletSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, err = plugin.NewRegistrationClient(connection).Register(ctx, &plugin.RegisterRequest{Version: plugin.Version, Endpoint: endpoint, ResourceName: resource})
	return err
}

func (c *counted) state() []*plugin.Device {
	text, _ := os.ReadFile(c.unhealthy)
	bad := strings.Fields(string(text))
	found := make([]*plugin.Device, c.count)
	for i := range found {
		found[i] = &plugin.Device{ID: fmt.Sprintf("pretended-%d", i), Health: plugin.Healthy}
		if slices.Contains(bad, found[i].ID) {
			found[i].Health = plugin.Unhealthy
		}
	}
	return found
}

func (c *counted) GetDevicePluginOptions(context.Context, *plugin.Empty) (*plugin.DevicePluginOptions, error) {
	return &plugin.DevicePluginOptions{}, nil
}

func (c *counted) ListAndWatch(_ *plugin.Empty, stream plugin.DevicePlugin_ListAndWatchServer) error {
	var told string
	for ; stream.Context().Err() == nil; time.Sleep(often) {
		now := c.state()
		if text := fmt.Sprint(now); text != told {
			if err := stream.Send(&plugin.ListAndWatchResponse{Devices: now}); err != nil {
				return err
			}
			told = text
		}
	}
	return nil
}

func (c *counted) Allocate(_ context.Context, asked *plugin.AllocateRequest) (*plugin.AllocateResponse, error) {
	given := &plugin.AllocateResponse{}
	for _, container := range asked.ContainerRequests {
		one := &plugin.ContainerAllocateResponse{Envs: map[string]string{"NVIDIA_VISIBLE_DEVICES": strings.Join(container.DevicesIds, ",")}}
		for _, id := range container.DevicesIds {
			one.Devices = append(one.Devices, &plugin.DeviceSpec{HostPath: "/dev/null", ContainerPath: "/dev/" + id, Permissions: "rw"})
		}
		given.ContainerResponses = append(given.ContainerResponses, one)
		log.Printf("allocated %s", strings.Join(container.DevicesIds, ", "))
	}
	return given, nil
}

// ---- claims ----------------------------------------------------------------------------------------------------------------------------

type claims struct {
	registration.UnimplementedRegistrationServer
	driver, endpoint string
}

// prepare serves the driver, and where the kubelet looks for new ones says that it is there.
func prepare(driver, root string) error {
	endpoint := filepath.Join(root, "plugins", driver, "dra.sock")
	if err := os.MkdirAll(filepath.Dir(endpoint), 0o750); err != nil {
		return err
	}
	server := grpc.NewServer()
	served := &claims{driver: driver, endpoint: endpoint}
	dra.RegisterDRAPluginServer(server, served)
	registration.RegisterRegistrationServer(server, served)
	failed := make(chan error)
	for _, socket := range []string{endpoint, filepath.Join(root, "plugins_registry", driver+"-reg.sock")} {
		_ = os.Remove(socket)
		listener, err := net.Listen("unix", socket)
		if err != nil {
			return err
		}
		go func() { failed <- server.Serve(listener) }()
	}
	return <-failed
}

func (c *claims) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{Type: registration.DRAPlugin, Name: c.driver, Endpoint: c.endpoint, SupportedVersions: []string{dra.DRAPluginService}}, nil
}

func (c *claims) NotifyRegistrationStatus(_ context.Context, status *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	log.Printf("registered: %v %s", status.PluginRegistered, status.Error)
	return &registration.RegistrationStatusResponse{}, nil
}

func (c *claims) NodePrepareResources(_ context.Context, asked *dra.NodePrepareResourcesRequest) (*dra.NodePrepareResourcesResponse, error) {
	done := &dra.NodePrepareResourcesResponse{Claims: map[string]*dra.NodePrepareResourceResponse{}}
	for _, claim := range asked.Claims {
		done.Claims[claim.UID] = &dra.NodePrepareResourceResponse{}
		log.Printf("prepared %s/%s", claim.Namespace, claim.Name)
	}
	return done, nil
}

func (c *claims) NodeUnprepareResources(_ context.Context, asked *dra.NodeUnprepareResourcesRequest) (*dra.NodeUnprepareResourcesResponse, error) {
	done := &dra.NodeUnprepareResourcesResponse{Claims: map[string]*dra.NodeUnprepareResourceResponse{}}
	for _, claim := range asked.Claims {
		done.Claims[claim.UID] = &dra.NodeUnprepareResourceResponse{}
		log.Printf("unprepared %s/%s", claim.Namespace, claim.Name)
	}
	return done, nil
}
