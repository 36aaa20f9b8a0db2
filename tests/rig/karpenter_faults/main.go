// Karpenter with its KWOK provider, whose capacity runs out where a file says so.
//
// CAPACITY_FAULTS_FILE_PATH names the file, which is read at each launch: {"noCapacity": [{"capacityType", "zone",
// "instanceType"}, …], "cacheSeconds": 180}. An absent field stands for all. A launch takes the cheapest offering that has
// capacity. One that has none is refused with Karpenter's own error, and is shown as unavailable for so many seconds from
// then on, as the AWS provider does for three minutes.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/log"

	kwok "sigs.k8s.io/karpenter/kwok/cloudprovider"
	v1 "sigs.k8s.io/karpenter/pkg/apis/v1"
	"sigs.k8s.io/karpenter/pkg/cloudprovider"
	"sigs.k8s.io/karpenter/pkg/cloudprovider/overlay"
	"sigs.k8s.io/karpenter/pkg/controllers"
	"sigs.k8s.io/karpenter/pkg/controllers/state"
	"sigs.k8s.io/karpenter/pkg/operator"
	"sigs.k8s.io/karpenter/pkg/scheduling"
)

const fileVariable = "CAPACITY_FAULTS_FILE_PATH"

// place is an offering by its names; in a fault, an empty name stands for all.
type place struct {
	CapacityType string `json:"capacityType"`
	Zone         string `json:"zone"`
	InstanceType string `json:"instanceType"`
}

type faults struct {
	NoCapacity   []place `json:"noCapacity"`
	CacheSeconds float64 `json:"cacheSeconds"`
}

// scarce is a provider whose capacity runs out.
type scarce struct {
	cloudprovider.CloudProvider
	file        string
	mutex       sync.Mutex
	hiddenUntil map[place]time.Time
}

func main() {
	ctx, op := operator.NewOperator()
	instanceTypes, err := kwok.ConstructInstanceTypes(ctx)
	if err != nil {
		log.FromContext(ctx).Error(err, "reading the instance types")
		os.Exit(1)
	}
	plain := &scarce{
		CloudProvider: kwok.NewCloudProvider(ctx, op.GetClient(), instanceTypes),
		file:          os.Getenv(fileVariable),
		hiddenUntil:   map[place]time.Time{},
	}
	provider := overlay.Decorate(plain, op.GetClient(), op.InstanceTypeStore)
	cluster := state.NewCluster(op.Clock, op.GetClient(), provider)
	op.WithControllers(ctx, controllers.NewControllers(
		ctx, op.Manager, op.Clock, op.GetClient(), op.EventRecorder, provider, plain, cluster, op.InstanceTypeStore,
	)...).Start(ctx)
}

// Create launches the cheapest offering that has capacity.
func (s *scarce) Create(ctx context.Context, claim *v1.NodeClaim) (*v1.NodeClaim, error) {
	current, err := readFaults(s.file)
	if err != nil {
		return nil, err
	}
	instanceTypes, err := s.CloudProvider.GetInstanceTypes(ctx, nil)
	if err != nil {
		return nil, err
	}
	wanted := scheduling.NewNodeSelectorRequirementsWithMinValues(claim.Spec.Requirements...)
	var cheapest *cloudprovider.Offering
	var chosen place
	for _, instanceType := range instanceTypes {
		if !wanted.Get(corev1.LabelInstanceTypeStable).Has(instanceType.Name) {
			continue
		}
		for _, offering := range instanceType.Offerings.Compatible(wanted) {
			at := placeOf(instanceType, offering)
			if slices.ContainsFunc(current.NoCapacity, at.isIn) {
				s.hide(at, time.Duration(current.CacheSeconds*float64(time.Second)))
			} else if cheapest == nil || offering.Price < cheapest.Price {
				cheapest, chosen = offering, at
			}
		}
	}
	if cheapest == nil {
		return nil, cloudprovider.NewInsufficientCapacityError(fmt.Errorf("no capacity in any offering, as %s says", s.file))
	}
	return s.CloudProvider.Create(ctx, pinned(claim, chosen))
}

// GetInstanceTypes returns all instance types; offerings that were found without capacity are unavailable for a while.
func (s *scarce) GetInstanceTypes(ctx context.Context, pool *v1.NodePool) ([]*cloudprovider.InstanceType, error) {
	instanceTypes, err := s.CloudProvider.GetInstanceTypes(ctx, pool)
	if err != nil {
		return nil, err
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	now := time.Now()
	shown := make([]*cloudprovider.InstanceType, 0, len(instanceTypes))
	for _, instanceType := range instanceTypes {
		// A copy of its own: an instance type keeps what it has computed from its offerings.
		copied := instanceType.DeepCopy()
		for _, offering := range copied.Offerings {
			offering.Available = offering.Available && !now.Before(s.hiddenUntil[placeOf(copied, offering)])
		}
		shown = append(shown, copied)
	}
	return shown, nil
}

func (s *scarce) hide(at place, duration time.Duration) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.hiddenUntil[at] = time.Now().Add(duration)
}

func (p place) isIn(fault place) bool {
	return (fault.CapacityType == "" || fault.CapacityType == p.CapacityType) &&
		(fault.Zone == "" || fault.Zone == p.Zone) &&
		(fault.InstanceType == "" || fault.InstanceType == p.InstanceType)
}

func placeOf(instanceType *cloudprovider.InstanceType, offering *cloudprovider.Offering) place {
	return place{offering.CapacityType(), offering.Zone(), instanceType.Name}
}

// pinned returns a copy of a claim that only one offering fits.
func pinned(claim *v1.NodeClaim, at place) *v1.NodeClaim {
	values := map[string]string{
		corev1.LabelInstanceTypeStable: at.InstanceType,
		corev1.LabelTopologyZone:       at.Zone,
		v1.CapacityTypeLabelKey:        at.CapacityType,
	}
	copied := claim.DeepCopy()
	copied.Spec.Requirements = slices.DeleteFunc(copied.Spec.Requirements, func(requirement v1.NodeSelectorRequirementWithMinValues) bool {
		_, isPinned := values[requirement.Key]
		return isPinned
	})
	for key, value := range values {
		copied.Spec.Requirements = append(copied.Spec.Requirements, v1.NodeSelectorRequirementWithMinValues{
			Key: key, Operator: corev1.NodeSelectorOpIn, Values: []string{value},
		})
	}
	return copied
}

// readFaults returns the faults that are in force: none where there is no file.
func readFaults(file string) (faults, error) {
	var current faults
	content, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return current, nil
	}
	if err != nil {
		return current, err
	}
	if err := json.Unmarshal(content, &current); err != nil {
		return current, fmt.Errorf("%s: %w", file, err)
	}
	return current, nil
}
