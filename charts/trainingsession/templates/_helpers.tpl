{{/* Prefix of all names, short enough that "-mongodb-server-0" and the like stay below 63 characters. */}}
{{- define "trainingsession.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" (.Release.Name | trunc 24 | trimSuffix "-") .Chart.Name -}}
{{- end -}}
{{- end -}}

{{- define "trainingsession.operator.name" -}}
{{ include "trainingsession.fullname" . }}-operator
{{- end -}}

{{- define "trainingsession.operator.account" -}}
{{- .Values.operator.serviceAccount.name | default (include "trainingsession.operator.name" .) -}}
{{- end -}}

{{- define "trainingsession.mongodb.name" -}}
{{ include "trainingsession.fullname" . }}-mongodb
{{- end -}}

{{/* Secret with MongoDB's first user and keyfile. The operator makes it, so that Helm never holds or changes a password. */}}
{{- define "trainingsession.mongodb.serverSecret" -}}
{{ include "trainingsession.mongodb.name" . }}-server
{{- end -}}

{{/*
Names under which the members of the replica set are known, in their pods and in every namespace. Without the cluster's domain, which may be another than
cluster.local. host is the first one, which initiates the set; ownHost is a pod's own, by the variable of podName.
*/}}
{{- define "trainingsession.mongodb.host" -}}
{{- $name := include "trainingsession.mongodb.name" . -}}
{{- printf "%s-0.%s.%s.svc:27017" $name $name .Release.Namespace -}}
{{- end -}}

{{- define "trainingsession.mongodb.hosts" -}}
{{- $name := include "trainingsession.mongodb.name" . -}}
{{- range $number := until (int .Values.mongodb.members) -}}
{{- if $number }},{{ end -}}
{{- printf "%s-%d.%s.%s.svc:27017" $name $number $name $.Release.Namespace -}}
{{- end -}}
{{- end -}}

{{- define "trainingsession.mongodb.ownHost" -}}
{{- printf "$(POD_NAME).%s.%s.svc:27017" (include "trainingsession.mongodb.name" .) .Release.Namespace -}}
{{- end -}}

{{- define "trainingsession.mongodb.podName" -}}
- name: POD_NAME
  valueFrom:
    fieldRef:
      apiVersion: v1
      fieldPath: metadata.name
{{- end -}}

{{/* Not empty when the chart runs MongoDB itself. */}}
{{- define "trainingsession.mongodb.own" -}}
{{- if not .Values.mongodb.external.uriSecret -}}yes{{- end -}}
{{- end -}}

{{/* Name of the Secret with MongoDB's certificate; empty without TLS. */}}
{{- define "trainingsession.mongodb.tlsSecret" -}}
{{- if include "trainingsession.mongodb.own" . -}}
{{- if and .Values.mongodb.tls.certManager.issuerName (not .Values.mongodb.tls.secretName) -}}
{{ include "trainingsession.mongodb.name" . }}-tls
{{- else -}}
{{- .Values.mongodb.tls.secretName -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Secret and key of the authorities by which operator and trainers trust MongoDB; empty where their images' own suffice. */}}
{{- define "trainingsession.mongodb.caSecret" -}}
{{- if .Values.mongodb.external.uriSecret -}}
{{- if .Values.mongodb.external.caKey -}}{{- .Values.mongodb.external.uriSecret -}}{{- end -}}
{{- else -}}
{{- include "trainingsession.mongodb.tlsSecret" . -}}
{{- end -}}
{{- end -}}

{{/* Labels of a component that never change, so that they can be selected by. Arguments: root, component. */}}
{{- define "trainingsession.selectorLabels" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Arguments: root, component. */}}
{{- define "trainingsession.labels" -}}
{{ include "trainingsession.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- include "trainingsession.extraLabels" (dict "labels" .root.Values.commonLabels "value" "commonLabels") }}
{{- end -}}

{{/* Labels of a component's pods. Without the version, so that an upgrade that changes nothing else restarts nothing. Arguments: root, component, labels (of this pod). */}}
{{- define "trainingsession.podLabels" -}}
{{ include "trainingsession.selectorLabels" . }}
{{- $own := .labels | default dict -}}
{{- include "trainingsession.extraLabels" (dict "labels" (merge (dict) $own .root.Values.commonLabels) "value" "commonLabels and podLabels") }}
{{- end -}}

{{/* Labels of the user's, each on a line of its own; fails for one that is given anyway. Arguments: labels, value (where they stand). */}}
{{- define "trainingsession.extraLabels" -}}
{{- $value := .value -}}
{{- range $key, $text := .labels -}}
{{- if regexMatch "^((app\\.kubernetes\\.io|helm\\.sh|trainingsession\\.dev|batch\\.kubernetes\\.io|kueue\\.x-k8s\\.io)/|(job-name|controller-uid)$)" $key -}}
{{- fail (printf "%s: %s is given by the chart, Kubernetes or Kueue; remove it, and take a key of your own, such as example.com/%s" $value $key (splitList "/" $key | last)) -}}
{{- end }}
{{ $key }}: {{ $text | quote }}
{{- end -}}
{{- end -}}

{{/* Names of the Secrets with which an image is pulled, with commas. Arguments: root, names. */}}
{{- define "trainingsession.pullSecretNames" -}}
{{- $names := .names -}}
{{- range (.root.Values.global).imagePullSecrets -}}
{{- $names = append $names (kindIs "string" . | ternary . (get (kindIs "map" . | ternary . dict) "name")) -}}
{{- end -}}
{{- $names | uniq | join "," -}}
{{- end -}}

{{/* imagePullSecrets of a pod of the chart; empty without any. */}}
{{- define "trainingsession.pullSecrets" -}}
{{- with include "trainingsession.pullSecretNames" (dict "root" . "names" .Values.imagePullSecrets) -}}
imagePullSecrets:
{{- range splitList "," . }}
  - name: {{ . }}
{{- end }}
{{- end -}}
{{- end -}}

{{/* A value as JSON in an environment variable: the kubelet would expand $(NAME). */}}
{{- define "trainingsession.envJson" -}}
{{ toJson . | replace "$" "$$" | quote }}
{{- end -}}

{{/* Reference of an image: its own registry wins over global.imageRegistry. Arguments: root, image, defaultTag. */}}
{{- define "trainingsession.image" -}}
{{- with .image.registry | default (.root.Values.global).imageRegistry }}{{ . | trimSuffix "/" }}/{{ end -}}
{{- .image.repository -}}
{{- if .image.digest -}}
@{{ .image.digest }}
{{- else -}}
:{{ .image.tag | default .defaultTag }}
{{- end -}}
{{- end -}}

{{- define "trainingsession.operator.image" -}}
{{- include "trainingsession.image" (dict "root" . "image" .Values.operator.image "defaultTag" .Chart.AppVersion) -}}
{{- end -}}

{{- define "trainingsession.mongodb.image" -}}
{{- include "trainingsession.image" (dict "root" . "image" .Values.mongodb.image "defaultTag" "") -}}
{{- end -}}

{{/* mongod's rule for its cache, half of the memory above 1 GiB and at least 0.25 GB, from the limit rather than from what the machine has. */}}
{{- define "trainingsession.mongodb.cacheSizeGB" -}}
{{- if .Values.mongodb.cacheSizeGB -}}
{{- .Values.mongodb.cacheSizeGB -}}
{{- else -}}
{{- $limit := .Values.mongodb.resources.limits.memory -}}
{{- $gib := 0.0 -}}
{{- if hasSuffix "Gi" $limit -}}
{{- $gib = trimSuffix "Gi" $limit | float64 -}}
{{- else -}}
{{- $gib = divf (trimSuffix "Mi" $limit | float64) 1024 -}}
{{- end -}}
{{- round (maxf 0.25 (mulf 0.5 (subf $gib 1))) 2 -}}
{{- end -}}
{{- end -}}

{{/* What the restricted pod security standard asks of a container, and a read-only root. */}}
{{- define "trainingsession.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* What the operator may do in a namespace whose sessions it serves. Arguments: namespace, where the rights are for one alone. */}}
{{- define "trainingsession.operator.rules" -}}
# A namespace's UID is part of its database's name.
- apiGroups: [""]
  resources: [namespaces]
  {{- with .namespace }}
  resourceNames: [{{ . }}]
  {{- end }}
  verbs: [get]
# Deleted are only finished sessions whose ttlSecondsAfterFinished has passed; the admission policy sees to that.
- apiGroups: [trainingsession.dev]
  resources: [trainingsessions]
  verbs: [get, list, watch, delete]
- apiGroups: [trainingsession.dev]
  resources: [trainingsessions/status]
  verbs: [patch]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [create, get, list, watch, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
# Where sessions wait in Kueue's queues: Kueue's own words, and the place in the queue.
- apiGroups: [kueue.x-k8s.io]
  resources: [workloads]
  verbs: [list]
- apiGroups: [visibility.kueue.x-k8s.io]
  resources: [localqueues/pendingworkloads]
  verbs: [get]
# Denials of quota and pod security exist only as Events of the Job.
- apiGroups: [""]
  resources: [events]
  verbs: [create, list]
# The database's address and password of a namespace. No list and no watch: the operator sees no other Secret.
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [trainingsession-mongodb]
  verbs: [get, update]
# RBAC cannot limit create to a name; the admission policy does.
- apiGroups: [""]
  resources: [secrets]
  verbs: [create]
{{- end -}}

{{/* Labels of every trainer's pod, which the operator gives them. */}}
{{- define "trainingsession.trainerLabels" -}}
app.kubernetes.io/name: trainingsession-trainer
app.kubernetes.io/managed-by: trainingsession-operator
{{- end -}}

{{/* The cluster's DNS, and the cache of it that a node may keep at a link-local address. */}}
{{- define "trainingsession.dnsEgress" -}}
- to:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: {{ .Values.networkPolicy.dnsNamespace }}
    - ipBlock:
        cidr: 169.254.20.10/32
  ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
{{- end -}}

{{/*
Fails for a block that holds a cloud's metadata address. All addresses are taken, as those are left out of them; of others the first byte decides, since
none is wider than /8.
*/}}
{{- define "trainingsession.checkCidr" -}}
{{- $block := . | lower -}}
{{- $length := splitList "/" $block | last | int -}}
{{- $wide := and (ne $block "0.0.0.0/0") (ne $block "::/0") -}}
{{- $bad := false -}}
{{- if contains ":" $block -}}
{{- $bad = or (lt $length 16) (and (regexMatch "^fd00:" $block) (lt $length 32)) (regexMatch "^fd00:0*ec2:" $block) (regexMatch "^(fe[89ab][0-9a-f]:|0*:|::)" $block) -}}
{{- else -}}
{{- $bad = or (lt $length 8) (and (regexMatch "^169\\." $block) (lt $length 16)) (hasPrefix "169.254." $block) (and (hasPrefix "168." $block) (lt $length 16)) (hasPrefix "168.63." $block) (and (hasPrefix "100." $block) (lt $length 16)) (hasPrefix "100.100." $block) -}}
{{- end -}}
{{- if and $wide $bad -}}
{{- fail (printf "networkPolicy.trainerEgress: %s is too wide or holds a cloud's metadata address (169.254.169.254, fd00:ec2::254, 168.63.129.16, 100.100.100.200); name a smaller block, or 0.0.0.0/0 or ::/0, from which those are left out" .) -}}
{{- end -}}
{{- end -}}

{{/* Fails for what the schema lets through and no trainer can use, with the remedy. */}}
{{- define "trainingsession.checkTrainer" -}}
{{- range $name, $address := pick .Values.trainer.proxy "http" "https" -}}
{{- if contains "@" $address -}}
{{- fail (printf "trainer.proxy.%s holds a user or a password, which everybody who reads the trainers' pods would see; let the proxy know the trainers by their addresses, or go through one that adds the password" $name) -}}
{{- end -}}
{{- end -}}
{{- $_ := include "trainingsession.extraLabels" (dict "labels" .Values.trainer.podLabels "value" "trainer.podLabels") -}}
{{- range $key, $_ := .Values.trainer.podAnnotations -}}
{{- if hasPrefix "trainingsession.dev/" $key -}}
{{- fail (printf "trainer.podAnnotations: %s is the operator's own; remove it, and take a key of your own" $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
